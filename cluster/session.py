"""A Ray cluster to run in: the one that `RAY_ADDRESS` names, or one of this machine's own for as long as it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

OBJECT_STORE_BYTES = 2 * 2**30  # a local run moves one copy of a small model's weights and the scored texts


@contextmanager
def ray_session(parallel_actors: int) -> Iterator[None]:
    """Be connected to a cluster inside the `with`.

    On one machine the phases of a step take turns on the same cores, so a local cluster offers at least
    `parallel_actors` logical CPUs however few cores there are. An existing cluster's resources are what they are.

    Raises:
        ConnectionError: `RAY_ADDRESS` is set and no cluster answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False)
    else:
        ray.init(
            num_cpus=max(os.cpu_count() or 1, parallel_actors),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
        )
    try:
        yield
    finally:
        ray.shutdown()
