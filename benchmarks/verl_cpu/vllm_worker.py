"""verl's vLLM worker extension for the CPU build of vLLM, whose packed linear layers cannot take new weights."""

from __future__ import annotations

from typing import Any

import torch
import verl  # noqa: F401 - its import loads the platform
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


class CpuWorkerExtension(vLLMColocateWorkerExtension):
    """Keeps linear layers as plain matrix products, so that a sync finds the weights where it left them."""

    def __new__(cls, **kwargs: Any) -> CpuWorkerExtension:
        from vllm.model_executor.layers import utils

        def unpacked(layer: Any, remove_weight: bool) -> None:
            layer.cpu_linear = torch.nn.functional.linear

        utils.dispatch_cpu_unquantized_gemm = unpacked
        return super().__new__(cls, **kwargs)
