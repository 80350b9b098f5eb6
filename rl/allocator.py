"""On a CPU, memory that PyTorch frees stays with the process.

The C library gives every large block back to the kernel as it is freed. A learner's step allocates the same hundreds
of megabytes again and again, and each time every page of them is mapped and zeroed anew: a tenth of a step or more on
two cores (`python -m benchmarks.allocator`). Giving it back after each step would cost more than the C library's own
way does.
"""

from __future__ import annotations

import ctypes

# The environment of a process that trains and is started for it; read once, when it starts.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",  # large blocks come from the heap as well
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),  # and stay in it
    "MALLOC_TOP_PAD_": str(256 * 2**20),
    "THP_MEM_ALLOC_ENABLE": "1",  # PyTorch asks for huge pages
}
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """The same for a process that runs already; False where the C library is not glibc, and nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_TRIM_THRESHOLD, _LARGEST) and mallopt(_MMAP_MAX, 0))


def return_freed_memory() -> bool:
    """Give the kernel back what this process has freed, wherever it lies; False where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
