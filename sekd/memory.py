"""How this process gets memory from the system."""

from __future__ import annotations

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's mallopt(3)
LARGEST = 2**30  # bytes


@cache
def keep_freed_memory() -> bool:
    """Lets this process keep what it frees; whether the C library could be told so.

    Each training step allocates the same few megabytes a hundred times over. By default glibc returns them to the
    system in between, which then zeroes every page again: a step with DISPatch and MSSP took 339 ms that way and
    283 ms this way (benchmarks.step_time).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = {M_MMAP_THRESHOLD: LARGEST, M_TRIM_THRESHOLD: LARGEST, M_TOP_PAD: 2**26}
    return all([mallopt(key, value) == 1 for key, value in wanted.items()])
