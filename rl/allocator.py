"""On a CPU, memory that PyTorch frees stays with the process.

The C library gives every large block back to the kernel as it is freed. A learner's step allocates the same hundreds of
megabytes again and again, and each time every page of them is mapped and zeroed anew: a quarter of the step on 2 cores
(`python -m benchmarks.allocator`). The peak of a process is what it was; it is only not lowered between two steps.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask this process's allocator to keep what is freed; False where it is not glibc's, and nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_TRIM_THRESHOLD, _LARGEST) and mallopt(_MMAP_MAX, 0))
