"""Matrix products of the learner's shapes in float32 and bfloat16: which one `model.dtype=auto` should be on this CPU.

    python benchmarks/dtypes.py

Prints the time of float32 / that of bfloat16 for each shape; below 1 float32 is faster. A processor with AVX-512 BF16
but no AMX gave 0.60 to 0.74 for the long shapes and 0.82 for a decoding step, with PyTorch 2.13.
"""

from __future__ import annotations

import time

import torch

from rl.engines.model import cpu_multiplies_bfloat16

SHAPES = {
    "layer": (1024, 576, 1536),
    "backward": (576, 1024, 1536),
    "head": (512, 576, 49152),
    "decode": (48, 576, 1536),
}
REPEATS = 20


def seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    left @ right.T
    started = time.perf_counter()
    for _ in range(REPEATS):
        left @ right.T
    return (time.perf_counter() - started) / REPEATS


def main() -> None:
    print(f"bfloat16 products in this processor: {cpu_multiplies_bfloat16()}; {torch.get_num_threads()} threads")
    for name, (m, k, n) in SHAPES.items():
        left, right = torch.randn(m, k), torch.randn(n, k)
        times = [seconds(left.to(dtype), right.to(dtype)) for dtype in (torch.float32, torch.bfloat16)]
        rates = [2 * m * k * n / taken / 1e9 for taken in times]
        print(
            f"{name:9} {m} x {k} x {n}: float32 {rates[0]:.0f} GFLOP/s, bfloat16 {rates[1]:.0f}; "
            f"float32/bfloat16 time {times[0] / times[1]:.2f}"
        )


if __name__ == "__main__":
    main()
