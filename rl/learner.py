"""The learner ranks as Ray actors, and the driver's handle on them.

    driver                                   ranks 0 .. n-1, one actor each
    LearnerGroup.train(groups)  -- ray.put -> every rank plans the same shares, takes its own, and meets the others in
                                              the engine's collectives
    LearnerGroup.weights()      <----------- rank 0 puts buckets into the object store (rl/weight_sync.py)

Invariants:
- Every call goes to all ranks, and every wait has `learner.timeout_s`.
- After a rank has failed the group is broken, since the others may be inside a collective: further calls are refused,
  and `close` kills the actors.
- A `LearnerError` names the rank, its node, the phase and the root cause: the rank that died, not those that then lost
  their connection to it.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from rl.allocator import KEEP_FREED_MEMORY
from rl.config import RunConfig
from rl.engines.place import Place
from rl.types import TrainGroup

GRACE_S = 5.0  # after a first failure: time for the other ranks to report theirs, so that the root cause is found


class LearnerError(RuntimeError):
    """A learner rank failed or did not answer in time."""

    def __init__(self, rank: int, node: str, phase: str, cause: str) -> None:
        super().__init__(rank, node, phase, cause)
        self.rank, self.node, self.phase, self.cause = rank, node, phase, cause

    def __str__(self) -> str:
        return f"learner rank {self.rank} on node {self.node} failed during {self.phase}: {self.cause}"


class LearnerRank:
    """A rank in its own process. See `rl.engines.worker.RankWorker`, which does the work."""

    def where(self) -> tuple[str, str]:
        """Ray's id and the address of the node."""
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def free_port(self) -> int:
        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    def setup(self, config: RunConfig, model_path: Path, place: Place) -> None:
        from rl.engines.worker import RankWorker

        self._worker = RankWorker(config, model_path, place)

    def train(self, groups: Sequence[TrainGroup], temperature: float) -> dict[str, float]:
        return self._worker.train(groups, temperature)

    def logprobs(self, groups: Sequence[TrainGroup], temperature: float) -> dict[Any, tuple[float, ...]]:
        return self._worker.logprobs(groups, temperature)

    def weights(self) -> list[ray.ObjectRef]:
        from rl.weight_sync import pack

        return [ray.put(bucket) for bucket in pack(self._worker.weights())]

    def save(self, folder: Path) -> None:
        self._worker.save(folder)

    def load(self, folder: Path) -> None:
        self._worker.load(folder)

    def export(self, folder: Path) -> None:
        self._worker.export(folder)


def training_resources(gpu_share: float) -> dict[str, Any]:
    """Ray options of a process that trains: a GPU where the cluster has any, else memory settings for CPU."""
    if ray.cluster_resources().get("GPU", 0):
        return {"num_cpus": 1, "num_gpus": gpu_share}
    return {"num_cpus": 1, "runtime_env": {"env_vars": KEEP_FREED_MEMORY}}


class LearnerGroup:
    """All ranks as one. Create it, `start`, use it, `close`."""

    def __init__(self, config: RunConfig, model_path: Path) -> None:
        self.config = config
        self.model_path = Path(model_path)
        self._ranks: list[ActorHandle] = []
        self._nodes: list[str] = []
        self._places: list[Place] = []
        self._broken: LearnerError | None = None

    def start(self) -> None:
        """Create the actors, let them meet at rank 0's address, load the model in each."""
        count = self.config.learner.ranks
        actor: Any = ray.remote(**training_resources(self.config.learner.gpu_share), max_restarts=0)(LearnerRank)
        self._nodes = ["unknown"] * count
        self._ranks = [actor.remote() for _ in range(count)]
        places = self._call("placement", [rank.where.remote() for rank in self._ranks])
        self._nodes = [address for _, address in places]
        neighbours = Counter(node for node, _ in places)
        port = self._call("rendezvous", [self._ranks[0].free_port.remote()])[0]
        self._places = [
            Place(index, count, self._nodes[0], port, neighbours[node]) for index, (node, _) in enumerate(places)
        ]
        self.set_up()

    def set_up(self) -> None:
        """Load the model afresh in every rank, by the present configuration and the ranks that there are."""
        pairs = zip(self._ranks, self._places, strict=True)
        self._call("set-up", [rank.setup.remote(self.config, self.model_path, place) for rank, place in pairs])

    def train(self, groups: Sequence[TrainGroup], temperature: float) -> dict[str, float]:
        """One step on all groups. Returns the metrics, equal on all ranks.

        Raises:
            LearnerError: a rank failed; nothing is known about the weights then, so resume from a checkpoint.
        """
        if not groups:
            raise ValueError("a learner step needs at least one group")
        return self._all("train", ray.put(list(groups)), temperature)[0]

    def logprobs(self, groups: Sequence[TrainGroup], temperature: float) -> list[list[tuple[float, ...]]]:
        """Log-probs of every reply token under the current weights: one list per group, one tuple (T,) per reply."""
        from rl.batching import ReplyKey

        merged: dict[Any, tuple[float, ...]] = {}
        for part in self._all("logprobs", ray.put(list(groups)), temperature):
            merged |= part
        return [
            [merged[ReplyKey(index, number)] for number in range(len(group.response_ids))]
            for index, group in enumerate(groups)
        ]

    def weights(self) -> list[ray.ObjectRef]:
        """References to the `WeightBucket`s of the current weights; rank 0 owns them."""
        return self._all("weights")[0]

    def save(self, folder: Path) -> None:
        """Write a sharded checkpoint (model, optimizer, schedule, RNGs). The caller makes it atomic by renaming."""
        self._all("save", Path(folder).resolve())

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint; under FSDP2 also one of another number of ranks."""
        self._all("load", Path(folder).resolve())

    def export(self, folder: Path) -> None:
        """Write a plain Hugging Face folder: merged weights, tokenizer, generation config; the adapter beside them."""
        self._all("export", Path(folder).resolve())

    def close(self) -> None:
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []

    def _all(self, method: str, *args: Any) -> list[Any]:
        if not self._ranks:
            raise RuntimeError("the learner group is not running: call start() first")
        if self._broken is not None:
            raise self._broken
        return self._call(method, [getattr(rank, method).remote(*args) for rank in self._ranks])

    def _call(self, phase: str, refs: list[ray.ObjectRef]) -> list[Any]:
        """Results in rank order, or the root cause of the first failure."""
        deadline = time.monotonic() + self.config.learner.timeout_s
        pending = list(refs)
        failures: dict[int, BaseException] = {}
        while pending and not failures:
            ready, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                self._fail(phase, {refs.index(pending[0]): self._overdue(len(pending), len(refs))})
            failures |= _failures(refs, ready)
        if failures:
            if pending:
                ready, _ = ray.wait(pending, num_returns=len(pending), timeout=GRACE_S)
                failures |= _failures(refs, ready)
            self._fail(phase, failures)
        return ray.get(refs)

    def _overdue(self, missing: int, total: int) -> TimeoutError:
        limit = self.config.learner.timeout_s
        return TimeoutError(
            f"no answer within learner.timeout_s={limit:g} ({missing} of {total} ranks missing). If a rank waits for "
            "resources, lower learner.ranks; if steps are that long, raise learner.timeout_s"
        )

    def _fail(self, phase: str, failures: dict[int, BaseException]) -> None:
        rank = min(failures, key=lambda index: (_blame(failures[index]), index))
        self._broken = LearnerError(rank, self._nodes[rank], phase, describe_failure(failures[rank]))
        raise self._broken from failures[rank]


def _failures(refs: list[ray.ObjectRef], ready: list[ray.ObjectRef]) -> dict[int, BaseException]:
    failures: dict[int, BaseException] = {}
    for ref in ready:
        try:
            ray.get(ref, timeout=60)
        except Exception as error:  # noqa: BLE001 - whatever the rank raised: it is kept and reported, not hidden
            failures[refs.index(ref)] = error
    return failures


def _root(error: BaseException) -> BaseException:
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return error.cause
    return error


def _blame(error: BaseException) -> int:
    """0 for a dead process, 1 for an error of its own, 2 for a lost connection, which another rank's death causes."""
    if isinstance(error, RayActorError):
        return 0
    text = str(_root(error)).lower()
    return 2 if any(word in text for word in ("gloo", "nccl", "connection closed by peer", "process group")) else 1


def describe_failure(error: BaseException) -> str:
    """The root cause in one line, from under Ray's wrappers."""
    root = _root(error)
    text = " ".join(str(root).split())
    if isinstance(error, RayActorError):
        return f"its process died ({type(error).__name__}: {text})"
    return f"{type(root).__name__}: {text}"
