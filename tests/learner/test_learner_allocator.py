"""A process that keeps what it frees maps no pages of a large tensor anew, until it is told to return them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNT = """
import resource, sys
import torch
from rl.allocator import keep_freed_memory
kept = "keep" in sys.argv and keep_freed_memory()
def fill(): return float(torch.ones(16, 2**20).sum())  # 64 MiB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): fill()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
RETURN = """
import torch
from rl.allocator import keep_freed_memory, return_freed_memory
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
keep_freed_memory()
pinned = [(torch.ones(4, 2**20), torch.ones(8))[1] for _ in range(16)]  # 16 MiB each, and a little after it that stays
kept = resident()
print(return_freed_memory(), kept - resident())
"""


def pages_mapped(*arguments: str) -> tuple[bool, int]:
    """Whether memory is kept, and the pages mapped anew by twenty tensors of 64 MiB, one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    kept, pages = done.stdout.split()
    return kept == "True", int(pages)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc")
def test_large_tensors_are_not_mapped_anew() -> None:
    kept, pages = pages_mapped("keep")
    plain = pages_mapped()[1]
    assert plain >= 20 * 16_384  # of 4 KiB
    assert kept and pages < plain / 2  # some are mapped until the heap has a hole that an aligned block fits


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc")
def test_freed_memory_is_returned_when_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RETURN], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    returned, freed = done.stdout.split()
    assert returned == "True" and int(freed) >= 12 * 2**20
