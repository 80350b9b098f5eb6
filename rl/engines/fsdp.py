"""FSDP2: parameters, gradients and optimizer state sharded over the ranks, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from rl.batching import MicroBatch
from rl.engines.base import EngineSpec, Forward, StepStats, learning_rate, weight_name
from rl.engines.head import Scoring
from rl.engines.model import PolicyModel, load_policy, load_reference, reference_forward


class FsdpEngine:
    """`Engine` by `fully_shard`. Master weights and the reduction of gradients are float32 whatever the compute dtype.

    World size 1 takes the same path.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.device = spec.device
        self._world = dist.get_world_size()
        self._updates = 0
        mesh = init_device_mesh(spec.device.type, (self._world,), mesh_dim_names=("data",))
        self.model = load_policy(spec.model_path, spec.model, store=torch.float32, compute=spec.compute)
        _shard(self.model, mesh, spec.compute)
        self._reference: PolicyModel | None = None
        if spec.reference and not spec.lora:
            self._reference = load_reference(spec.model_path, spec.compute)
            _shard(self._reference, mesh, spec.compute)
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        learner = spec.learner
        self._optimizer = torch.optim.AdamW(
            self._trained, lr=learner.lr, betas=learner.betas, weight_decay=learner.weight_decay, fused=True
        )

    def forward(self, batch: MicroBatch, scoring: Scoring) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model(batch, scoring)

    def train_mode(self, on: bool) -> None:
        self.model.train(on)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        # FSDP2 averages over the ranks; the engine's contract is the sum. Gradients are reduced after every
        # micro-batch, so that only their shards are kept between micro-batches.
        (loss * self._world).backward()

    def step(self) -> StepStats:
        rate = learning_rate(self._updates, self.spec.learner)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(self._trained, self.spec.learner.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._updates += 1
        return StepStats(float(_full(norm)), rate)

    def reference(self) -> AbstractContextManager[Forward]:
        return reference_forward(self._reference, self.model, self.model)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        # named_parameters leaves out the second name of a tied weight
        for name, parameter in self.model.named_parameters():
            if self.spec.lora and not parameter.requires_grad:
                continue
            full = _full(parameter.detach().to(self.spec.compute)).cpu()
            if dist.get_rank() == 0:
                yield weight_name(name, lora=self.spec.lora), full

    def save(self, folder: Path) -> None:
        import torch.distributed.checkpoint as dcp

        dcp.save({**self._state(), "updates": self._updates}, checkpoint_id=folder)

    def load(self, folder: Path) -> None:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        state = {**self._state(), "updates": 0}
        dcp.load(state, checkpoint_id=folder)
        set_state_dict(
            self.model,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(ignore_frozen_params=True, strict=not self.spec.lora),
        )
        self._updates = state["updates"]

    def _state(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(ignore_frozen_params=True)
        model, optimizer = get_state_dict(self.model, self._optimizer, options=options)
        return {"model": model, "optimizer": optimizer}


def _shard(policy: PolicyModel, mesh: DeviceMesh, compute: torch.dtype) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mixed = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    # With one rank there is nothing to give back after the forward pass; gathering again would only copy.
    reshard = mesh.size() > 1
    # Nor are frozen weights, which are in the compute dtype already, to be kept a second time as gathered copies.
    whole = set() if reshard else {parameter for parameter in policy.parameters() if not parameter.requires_grad}
    for layer in policy.decoder_layers:
        fully_shard(layer, mesh=mesh, mp_policy=mixed, reshard_after_forward=reshard, ignored_params=whole)
    fully_shard(policy, mesh=mesh, mp_policy=mixed, reshard_after_forward=reshard, ignored_params=whole)


def _full(tensor: torch.Tensor | nn.Parameter) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
