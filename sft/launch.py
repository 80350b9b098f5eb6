"""Start a stage of fine-tuning in several processes on this machine, with torchrun's own launcher."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Sequence

from sft.config import ConfigError


def launched() -> bool:
    """Whether this process is one of several that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def speaks() -> bool:
    """Whether what a command prints is to be printed by this process."""
    return os.environ.get("RANK", "0") == "0"


def check_processes(count: int, batches: int) -> None:
    """Raises ConfigError where this machine cannot run so many, or a step has not a batch for each."""
    import torch

    if count < 1:
        raise ConfigError(f"--processes {count}: must be 1 or more")
    if count > batches:
        raise ConfigError(
            f"--processes {count}: a step has only optimizer.accumulation={batches} batches to share; raise it and "
            "lower optimizer.batch"
        )
    gpus = torch.cuda.device_count()
    if gpus and count > gpus:
        raise ConfigError(f"--processes {count}: each needs a GPU of its own, and there are {gpus}")
    cores = os.cpu_count() or 1
    if not gpus and count > cores:
        raise ConfigError(f"--processes {count}: there is no GPU, and only {cores} processor cores")


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run `rapport ARGUMENTS` in `count` processes; each says itself what is wrong with it.

    Returns:
        0, or the exit code of the process that failed first; the others are stopped.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "rapport", *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0
