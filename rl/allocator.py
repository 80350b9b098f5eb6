"""On a CPU, memory that PyTorch frees stays with the process.

The C library gives every large block back to the kernel as it is freed. A learner's step allocates the same hundreds of
megabytes again and again, and each time every page of them is mapped and zeroed anew: a quarter of the step on 2 cores
(`python -m benchmarks.allocator`). Giving it back after each step
costs more than the C library's own way, for then all of it is mapped anew.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask this process's C library to keep what is freed; False where it is not glibc, and nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_TRIM_THRESHOLD, _LARGEST) and mallopt(_MMAP_MAX, 0))


def return_freed_memory() -> bool:
    """Give the kernel back what this process has freed, wherever it lies; False where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
