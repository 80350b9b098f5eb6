"""A Ray cluster to run in: the one that `RAY_ADDRESS` names, or one of this machine for as long as it is needed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

OBJECT_STORE_BYTES = 2 * 2**30  # a local run moves one copy of a small model's weights and the scored texts
START_ATTEMPTS = 3
CONNECT_TIMEOUT_S = 10.0


class RaySessionError(RuntimeError):
    """There is no Ray cluster to run in."""


@contextmanager
def ray_session(parallel_actors: int) -> Iterator[None]:
    """Be connected to a cluster inside the `with`.

    On one machine the phases of a step take turns on the same cores, so a local cluster offers at least
    `parallel_actors` logical CPUs however few cores there are. An existing cluster's resources are what they are.

    Raises:
        RaySessionError: `RAY_ADDRESS` is set and no cluster answers there, or a local cluster did not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's own 15 the workers starve beside any other program
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_reachable(address)
        # What a person must know comes as an exception or from the run itself; Ray's own notes would stand between.
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RaySessionError(
                f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}); start one with `ray start --head`, or "
                "unset RAY_ADDRESS to run on this machine alone"
            ) from error
    else:
        _start_local(max(os.cpu_count() or 1, parallel_actors))
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise RaySessionError where nothing listens at host:port. Ray itself would try for minutes without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # "auto", or a name that Ray looks up itself
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise RaySessionError(
            f"RAY_ADDRESS={address}: nothing answers at {host}, port {port} ({error}); start a cluster there with "
            "`ray start --head`, or unset RAY_ADDRESS to run on this machine alone"
        ) from error


def _start_local(num_cpus: int) -> None:
    """Start a cluster of this machine alone. Ray gives its agents 15 s; a busy machine may need several tries.

    Raises:
        RaySessionError: Ray did not start in `START_ATTEMPTS` tries.
    """
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                num_cpus=num_cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:  # Ray raises a bare Exception when its node does not come up
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise RaySessionError(
                    f"Ray did not start on this machine in {attempt} tries; the last error: {error}. Is the machine "
                    "very busy, or /dev/shm full? Ray's logs are in /tmp/ray/session_latest/logs"
                ) from error
