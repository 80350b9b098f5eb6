"""DeepSpeed ZeRO 1, 2 and 3: optimizer state, then also gradients, then also parameters sharded over the ranks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from rl.batching import MicroBatch
from rl.engines.base import EngineSpec, Forward, StepStats, learning_rate, weight_name
from rl.engines.head import Scoring
from rl.engines.model import PolicyModel, load_policy, load_reference, reference_forward

TAG = "deepspeed"  # the one checkpoint inside a folder


class DeepSpeedEngine:
    """`Engine` by `deepspeed.initialize`. Checkpoints load only at the world size that saved them."""

    def __init__(self, spec: EngineSpec, stage: int) -> None:
        self.spec = spec
        self.device = spec.device
        self._stage = stage
        self._world = dist.get_world_size()
        self._updates = 0
        self._zero = _import_deepspeed(spec.device)
        self.model = load_policy(spec.model_path, spec.model, store=torch.float32, compute=spec.compute).to(spec.device)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        learner = spec.learner
        optimizer = torch.optim.AdamW(
            trained, lr=learner.lr, betas=learner.betas, weight_decay=learner.weight_decay, fused=True
        )
        self._engine, *_ = self._zero.initialize(model=self.model, optimizer=optimizer, config=self._config())
        self._reference: nn.Module | None = self._frozen_copy() if spec.reference and not spec.lora else None

    def forward(self, batch: MicroBatch, scoring: Scoring) -> tuple[torch.Tensor, torch.Tensor]:
        return self._engine(batch, scoring)

    def train_mode(self, on: bool) -> None:
        self._engine.train(on)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        # DeepSpeed averages over the ranks; the engine's contract is the sum.
        self._engine.backward(loss * self._world)

    def step(self) -> StepStats:
        rate = learning_rate(self._updates, self.spec.learner)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        self._updates += 1
        return StepStats(float(self._engine.get_global_grad_norm()), rate)

    def reference(self) -> AbstractContextManager[Forward]:
        return reference_forward(self._reference, self.model, self._engine)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self.model.named_parameters():
            if self.spec.lora and not parameter.requires_grad:
                continue
            with self._gathered(parameter):
                full = parameter.detach().to(device="cpu", dtype=self.spec.compute, copy=True)
            if dist.get_rank() == 0:
                yield weight_name(name, lora=self.spec.lora), full

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(
            str(folder),
            tag=TAG,
            client_state={"updates": self._updates},
            exclude_frozen_parameters=self.spec.lora,
        )

    def load(self, folder: Path) -> None:
        found, state = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=not self.spec.lora)
        if found is None:
            raise FileNotFoundError(f"{folder} holds no DeepSpeed checkpoint; was it saved by another engine?")
        self._updates = state["updates"]

    def _gathered(self, parameter: nn.Parameter) -> AbstractContextManager[Any]:
        return self._zero.zero.GatheredParameters([parameter]) if self._stage == 3 else nullcontext()

    def _config(self) -> dict[str, Any]:
        """One backward after another accumulates; `step` is the boundary, so micro-batches may vary in number."""
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,
            "gradient_clipping": self.spec.learner.max_grad_norm,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": self._stage},
            "bf16": {"enabled": self.spec.compute == torch.bfloat16},
            "communication_data_type": "fp32",
            "steps_per_print": 10**9,
        }

    def _frozen_copy(self) -> nn.Module:
        reference: PolicyModel = load_reference(self.spec.model_path, self.spec.compute).to(self.device)
        if self._stage < 3:
            return reference
        config = {key: value for key, value in self._config().items() if key != "managed_gradient_accumulation"}
        engine = self._zero.initialize(model=reference, config=config)[0]
        engine.eval()
        return engine


def _import_deepspeed(device: torch.device) -> Any:
    """Import it so that nothing is compiled on a CPU and it does not log every step."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    if device.type == "cpu":
        # A shared-memory collective that would be compiled for a minute; gloo does.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo" if device.type == "cpu" else "nccl", verbose=False)
    return deepspeed
