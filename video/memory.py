"""Memory that a process once got is kept, since every step wants as much again.

glibc gives blocks of 32 MiB and more back to the kernel as soon as they are freed, and a new one
comes page by page, each zeroed. Training on a CPU frees and wants hundreds of MiB in every step:
on two cores of a virtual machine, keeping them made 1.7 of 1.4 steps/s (configs/uwm.yaml).
"""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of mallopt(3)'s parameters, from malloc.h."""
LARGEST_BLOCK, LARGEST_REST = 1 << 30, (1 << 31) - 1
"""Bytes: smaller blocks come from the process's own heap, of which so much may lie idle."""


def keep_freed_memory() -> bool:
    """Have this process keep what it frees, for what it wants next.

    For processes of our own, such as `lightning fit`; a library leaves its user's process alone.

    Returns:
        Whether it will; only glibc can.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    wanted = ((MMAP_THRESHOLD, LARGEST_BLOCK), (TRIM_THRESHOLD, LARGEST_REST))
    return all([libc.mallopt(name, value) for name, value in wanted])
