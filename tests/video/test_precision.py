"""bfloat16 is left alone where the processor has no instructions for it."""

import pytest
import torch

from video import precision
from video.precision import is_bfloat16_fast, precision_for


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(precision, "is_bfloat16_fast", lambda device="cpu": False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def test_a_gpu_is_taken_by_its_word():
    assert is_bfloat16_fast("cuda")


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_full_precision_where_mixed_is_slow(accelerator, slow):
    assert precision_for(accelerator, "bf16-mixed") == "32-true"


@pytest.mark.parametrize(
    ("accelerator", "asked"), [("cpu", "bf16-true"), ("cpu", None), ("gpu", "bf16-mixed")]
)
def test_anything_else_stays(accelerator, asked, slow):
    assert precision_for(accelerator, asked) == asked


def test_mixed_stays_where_it_is_fast(monkeypatch):
    monkeypatch.setattr(precision, "is_bfloat16_fast", lambda device="cpu": True)
    assert precision_for("cpu", "bf16-mixed") == "bf16-mixed"


def test_auto_with_an_accelerator(slow, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert precision_for("auto", "bf16-mixed") == "bf16-mixed"
