"""On a CPU, memory that PyTorch frees stays with the process for as long as it computes.

The C library gives every large block back to the kernel as it is freed. A learner's step allocates the same hundreds of
megabytes again and again, and each time every page of them is mapped and zeroed anew: a quarter of the step on 2 cores
(`python -m benchmarks.allocator`). Between two steps, while other processes need the memory, it is given back; huge
pages make it cheap to map again.
"""

from __future__ import annotations

import ctypes

# For a process that computes on a CPU, read once when it starts; without effect where the kernel has huge pages off.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask this process's allocator to keep what is freed; False where it is not glibc's, and nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_TRIM_THRESHOLD, _LARGEST) and mallopt(_MMAP_MAX, 0))


def return_freed_memory() -> bool:
    """Give the kernel back what this process has freed, wherever it lies; False where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
