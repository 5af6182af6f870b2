"""What the tests of all packages share."""

import functools
import multiprocessing
import os
from collections.abc import Iterator

import jaxtyping
import pytest
import torch

from video.simulators.drawing import without_display

pytest_plugins = ["tiny_datasets"]

torch.set_num_threads(1)  # tiny networks are faster so, and give the same numbers everywhere


without_display()  # before a test module imports an RL library, and that mujoco


def pytest_collection_finish() -> None:
    """Torchrl, once imported, lets every process of this one be spawned; take that back."""
    multiprocessing.set_start_method(None, force=True)


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """Call functions with wrong shapes: for tests of the errors that a user gets without pytest."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a simulator where there is none, unless REQUIRE_SIMULATOR is set."""
    if item.get_closest_marker("simulator") and "REQUIRE_SIMULATOR" not in os.environ:
        reason = _why_no_simulator()
        if reason:
            pytest.skip(reason)


@functools.cache
def _why_no_simulator() -> str:
    """Why Meta-World cannot draw here, or nothing."""
    try:
        import gymnasium

        import video.simulators  # noqa: F401  registers metaworld/<task>

        env = gymnasium.make("metaworld/button-press-topdown-v3")
        env.reset(seed=0)
        env.close()
    except Exception as error:
        return f"no simulator here: {error}"
    return ""
