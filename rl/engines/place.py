"""Where a rank is: the little that the driver tells it before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass

# For a process that trains on CPU, read once when it starts. A step frees gigabytes and asks for them again; glibc
# gave them back to the kernel in between, and page faults were a third of the time.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",  # large blocks come from the heap as well
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),  # and stay in it
    "MALLOC_TOP_PAD_": str(256 * 2**20),
    "THP_MEM_ALLOC_ENABLE": "1",  # PyTorch asks for huge pages
}


@dataclass(frozen=True, slots=True)
class Place:
    """`address`, `port`: where the ranks meet. `neighbours`: ranks on the same node, itself included."""

    rank: int
    ranks: int
    address: str
    port: int
    neighbours: int
