"""Memory that is freed and wanted again does not come page by page."""

import platform
import subprocess
import sys

import pytest

BLOCKS = """
import resource
import sys

import torch

from video.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(8):
    torch.ones(32 << 20)  # 128 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Pages that a process of its own had to ask the kernel for."""
    command = [sys.executable, "-c", BLOCKS, mode]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_freed_blocks_are_used_again():
    assert faults("keep") * 10 < faults("leave")
