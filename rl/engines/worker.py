"""One learner rank's work, without Ray: an engine, the loss, and metrics that are exact over all ranks."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from dialogue.library_noise import silence_bitsandbytes
from rl.allocator import return_freed_memory
from rl.batching import MicroBatch, ReplyKey, collate, plan
from rl.config import EngineName, RunConfig
from rl.engines.base import Engine, EngineSpec
from rl.engines.head import Scoring
from rl.engines.model import compute_dtype
from rl.engines.place import Place
from rl.threads import share_of_cores

if TYPE_CHECKING:
    from rl.losses import Tally
    from rl.types import TrainGroup


class RankWorker:
    """The life of a rank: join the process group, build the engine, then train, answer and save when called.

    Every public method is a collective: all ranks call it with the same arguments.
    """

    def __init__(self, config: RunConfig, model_path: Path, place: Place) -> None:
        self.config = config
        self.model_path = model_path
        self.place = place
        be_quiet()
        torch.set_num_threads(share_of_cores(place.neighbours))
        self.device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        _join(place, self.device, config.learner.timeout_s)
        seed_everything(config.seed)  # every rank builds the same adapter
        self.engine = create_engine(
            config.learner.engine,
            EngineSpec(
                model_path=model_path,
                model=config.model,
                learner=config.learner,
                device=self.device,
                compute=compute_dtype(config.model.dtype, self.device),
                reference=config.learner.loss.kl_coef > 0,
            ),
        )
        seed_everything(config.seed + 1 + place.rank)  # and draws its own dropout
        import verl.trainer.ppo.core_algos  # noqa: F401 - seconds, which belong to the set-up and not to the first step

    def train(self, groups: Sequence[TrainGroup], temperature: float) -> dict[str, float]:
        """One step on a batch: `epochs_per_step` passes over `minibatches` updates each; metrics are their means.

        With a single update the log-probs before it are those of its own forward pass; else they take a pass first.
        """
        started = time.perf_counter()
        learner = self.config.learner
        parts = min(learner.minibatches, len(groups))
        minibatches = [self._share(groups[part::parts]) for part in range(parts)]
        self.engine.train_mode(False)
        olds: list[list[torch.Tensor] | None] = [None] * parts
        if parts * learner.epochs_per_step > 1:
            olds = [[self._scores(batch, temperature) for batch in batches] for batches in minibatches]
        self.engine.train_mode(True)
        updates = []
        for _ in range(learner.epochs_per_step):
            for part in range(parts):
                updates.append(self._update(groups[part::parts], minibatches[part], olds[part], temperature))
        metrics = {name: _combine(name, [update[name] for update in updates]) for name in updates[0]}
        metrics["seconds"] = time.perf_counter() - started
        return metrics

    def logprobs(self, groups: Sequence[TrainGroup], temperature: float) -> dict[ReplyKey, tuple[float, ...]]:
        """Log-probs of this rank's share of the replies, under the current weights."""
        self.engine.train_mode(False)
        answers = {}
        for batch in self._share(groups):
            scores = self._scores(batch, temperature).cpu()
            lengths = batch.response_mask.sum(1).long().tolist()
            for key, row, length in zip(batch.keys, scores, lengths, strict=False):
                answers[key] = tuple(row[:length].tolist())
        return answers

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self.engine.weights()

    def save(self, folder: Path) -> None:
        return_freed_memory()  # copies of the weights come on top of it
        folder.mkdir(parents=True, exist_ok=True)
        self.engine.save(folder)
        torch.save(_rng_state(self.device), folder / f"rng-{self.place.rank}.pt")

    def load(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"no learner checkpoint at {folder}")
        self.engine.load(folder)
        own = folder / f"rng-{self.place.rank}.pt"
        if own.is_file():  # a rank that the saving run did not have keeps its fresh seed
            _set_rng_state(torch.load(own, weights_only=False), self.device)

    def export(self, folder: Path) -> None:
        """Write a Hugging Face folder; rank 0 writes, the others take part in gathering."""
        from rl.engines.export import export

        weights = dict(self.engine.weights())
        if self.place.rank == 0:
            export(folder, weights, self.model_path, self.config.model)
        dist.barrier()

    def _share(self, groups: Sequence[TrainGroup]) -> list[MicroBatch]:
        rows = plan(groups, self.place.ranks, self.config.learner.micro_batch_tokens)[self.place.rank]
        return [collate(batch).to(self.device) for batch in rows]

    def _scoring(self, temperature: float, *, training: bool = False) -> Scoring:
        learner = self.config.learner
        return Scoring(temperature, learner.logit_chunk_tokens, training and learner.loss.entropy_coef != 0)

    @torch.no_grad()
    def _scores(self, batch: MicroBatch, temperature: float) -> torch.Tensor:
        return self.engine.forward(batch, self._scoring(temperature))[0]

    def _update(
        self,
        groups: Sequence[TrainGroup],
        batches: list[MicroBatch],
        olds: list[torch.Tensor] | None,
        temperature: float,
    ) -> dict[str, float]:
        from rl.losses import BatchCounts, GrpoLoss, LossInputs, Tally

        counts = BatchCounts.of(groups, self.config.rollout.max_response_tokens)
        loss_of = GrpoLoss(self.config.learner.loss, counts)
        tally = Tally()
        for index, batch in enumerate(batches):
            reference = self._reference_logprobs(batch, temperature)
            logprobs, entropies = self.engine.forward(batch, self._scoring(temperature, training=True))
            old = logprobs.detach() if olds is None else olds[index]
            loss, part = loss_of(batch, LossInputs(logprobs, entropies, old, reference))
            self.engine.backward(loss, last=index == len(batches) - 1)
            tally.add(part)
        stats = self.engine.step()
        used = sum(batch.used_cells for batch in batches)
        tally.add(Tally({"cells": sum(batch.input_ids.numel() for batch in batches), "forward_tokens": used}, {}))
        metrics = _reduce(tally, self.device)
        cells = metrics.pop("cells")
        metrics["padding_fraction"] = 1 - metrics["forward_tokens"] / cells
        return metrics | {
            "grad_norm": stats.grad_norm,
            "lr": stats.lr,
            "tokens": float(counts.tokens),
            "micro_batches": float(len(batches)),
        }

    def _reference_logprobs(self, batch: MicroBatch, temperature: float) -> torch.Tensor | None:
        if self.config.learner.loss.kl_coef <= 0:
            return None
        with self.engine.reference() as forward:
            return forward(batch, self._scoring(temperature))[0]


def create_engine(name: EngineName, spec: EngineSpec) -> Engine:
    if name is EngineName.fsdp2:
        from rl.engines.fsdp import FsdpEngine

        return FsdpEngine(spec)
    from rl.engines.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(spec, stage={EngineName.zero1: 1, EngineName.zero2: 2, EngineName.zero3: 3}[name])


def be_quiet() -> None:
    """No progress bars of libraries: the run shows its own."""
    from transformers.utils import logging

    silence_bitsandbytes()
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _join(place: Place, device: torch.device, timeout_s: float) -> None:
    os.environ.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.ranks),
        LOCAL_RANK="0",
        MASTER_ADDR=place.address,
        MASTER_PORT=str(place.port),
    )
    if dist.is_initialized():  # set up again in the same process: the ranks have met
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, rank=place.rank, world_size=place.ranks, timeout=timedelta(seconds=timeout_s))


def _reduce(tally: Tally, device: torch.device) -> dict[str, float]:
    """Sums and maxima over all ranks, also those which had only empty micro-batches."""
    from rl.losses import MAXIMA, SUMS

    names = (*SUMS, "cells", "forward_tokens")
    sums = torch.tensor([tally.sums.get(name, 0.0) for name in names], dtype=torch.float64, device=device)
    maxima = torch.tensor([tally.maxima.get(name, 0.0) for name in MAXIMA], dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
    return dict(zip((*names, *MAXIMA), [*sums.tolist(), *maxima.tolist()], strict=True))


def _combine(name: str, values: list[float]) -> float:
    from rl.losses import MAXIMA

    if name in MAXIMA:
        return max(values)
    return values[-1] if name == "lr" else sum(values) / len(values)


def _rng_state(device: torch.device) -> dict[str, Any]:
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
