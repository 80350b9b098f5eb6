"""Start the reward servers, say how to ask them, and stay until told to stop.

starting -> serving -> SIGINT or SIGTERM -> draining (no new calls, those in flight at most ten seconds) -> gone
                    -> the application is deleted by someone else -> error
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from reward_servers.failures import root_cause
from reward_servers.protocol import TOKEN_VARIABLE
from reward_servers.serve import ServiceStartError, start_reward_servers, stop_reward_servers
from reward_servers.service_config import HttpConfig, ServiceConfig, ServiceConfigError, is_loopback

_WATCH_S = 5.0
_ANSWER_S = 30.0
_HEAD = "node:__internal_head__"  # the resource by which Ray marks a cluster's head node
_EXAMPLE = {
    "id": "1",
    "history": [{"role": "user", "content": "I lost my job today and have told nobody."}],
    "response": "That is a lot to carry alone. What was the hardest part of today?",
}


class ServiceGoneError(RuntimeError):
    """The application was deleted while this process served it."""


def serve_until_stopped(config: ServiceConfig, say: Callable[[str], None]) -> None:
    """Serve in this process's Ray cluster until SIGINT or SIGTERM, then drain. Only in the main thread.

    Args:
        say: told, one text at a time, where the service is and what happens to it.

    Raises:
        ServiceConfigError: an application of this name runs already: it is another process's to stop.
        ServiceStartError: it did not start.
        ServiceGoneError: someone else deleted it.
    """
    if config.app_name in serve.status().applications:
        raise ServiceConfigError(
            f"the reward servers {config.app_name!r} run already in this cluster; stop them or choose another app_name"
        )
    try:
        start_reward_servers(config)
        with _stop_signals() as stop:
            say(f"{announcement(config)}; Ctrl-C stops")
            while not stop.wait(_WATCH_S):
                _check_still_there(config)
        say("stopping: no new calls; those in flight may finish")  # handlers are back: another Ctrl-C ends at once
    finally:
        stop_reward_servers(config.app_name)
    say("stopped")


def update_service(config: ServiceConfig, say: Callable[[str], None]) -> None:
    """Change the application of this name in this process's cluster to `config`, and wait until it is healthy.

    New replicas are started beside the old ones, which answer the calls that they hold. The process that serves it
    goes on doing so.

    Raises:
        ServiceConfigError: no such application runs, or it would have to listen elsewhere or to forget its token.
        ServiceStartError: it does not answer, or the new replicas did not start.
    """
    if config.app_name not in serve.status().applications:
        raise ServiceConfigError(
            f"no reward servers {config.app_name!r} run in this cluster: start them without --update, or set app_name"
        )
    complaint = http_changed(_running_http(config.app_name), _http(config))
    if complaint:
        raise ServiceConfigError(complaint)
    say(f"updating the reward servers {config.app_name!r}")
    start_reward_servers(config)
    say(f"updated: {announcement(config)}")


def http_changed(running: HttpConfig | None, wanted: HttpConfig) -> str:
    """What an update cannot do, in words; empty where it can. Ray Serve's proxy stays where it was started.

    So a configuration for this machine alone, without a token, would open a port that all can reach.
    """
    if running is None:
        return "the servers that run have no HTTP: stop them and start them anew"
    if (running.host, running.port) != (wanted.host, wanted.port):
        here, there = (f"{http.host}:{http.port}" for http in (running, wanted))
        return f"the servers listen on {here} and cannot move to {there}: give --host and --port, or start them anew"
    if running.token and not wanted.token:
        return f"the servers ask for a token: set http.token or {TOKEN_VARIABLE}, or stop them and start them anew"
    return ""


def _running_http(app_name: str) -> HttpConfig | None:
    try:
        return serve.get_app_handle(app_name).http.remote().result(timeout_s=_ANSWER_S)
    except (RayServeException, RayError, TimeoutError) as error:
        why = f"the reward servers {app_name!r} run but do not answer: {root_cause(error)}"
        raise ServiceStartError(why) from error


def announcement(config: ServiceConfig) -> str:
    """Where the service is, and a curl that works in a shell as it stands."""
    http = _http(config)
    url = f"http://{local_host(http)}:{http.port}"
    body = json.dumps({"requests": [_EXAMPLE]})
    token = f"  -H 'Authorization: Bearer '\"${TOKEN_VARIABLE}\" \\\n" if http.token else ""
    other = http.token and os.environ.get(TOKEN_VARIABLE, "") != http.token
    hint = f"the token is the file's http.token; for this curl, first: export {TOKEN_VARIABLE}=...\n\n" if other else ""
    return (
        f"reward servers {config.app_name!r} at {url}\n\n{hint}"
        f"curl {url}/v1/score \\\n{token}  -H 'Content-Type: application/json' \\\n  -d '{body}'\n\n"
        f"{url}/openapi.json describes all routes"
    )


def local_host(http: HttpConfig) -> str:
    """The address under which this machine reaches the service."""
    return "127.0.0.1" if http.host == "0.0.0.0" else http.host


def check_port(config: ServiceConfig) -> None:
    """Whether the port is free on this machine, before anything is started.

    Raises:
        ServiceConfigError: it is not, or the address is not this machine's.
    """
    http = _http(config)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: not stopped by its last run
        try:
            probe.bind((http.host, http.port))
        except OSError as error:
            raise ServiceConfigError(
                f"cannot listen on {http.host}:{http.port}: {error.strerror}; "
                "stop what uses it or choose another with --host and --port"
            ) from error


def check_place(config: ServiceConfig, may_grow: bool) -> None:
    """Whether this process's cluster can hold the service; before anything is deployed in it.

    Args:
        may_grow: it is not of this machine alone, so GPUs may come with further nodes.

    Raises:
        ServiceConfigError: it has too few GPUs, or HTTP would be on another machine than the address says.
    """
    complaint = "" if may_grow else lacking_gpus(config, ray.cluster_resources())
    if not complaint:
        complaint = head_elsewhere(_http(config), ray.nodes(), ray.get_runtime_context().get_node_id())
    if complaint:
        raise ServiceConfigError(complaint)


def lacking_gpus(config: ServiceConfig, resources: Mapping[str, float]) -> str:
    """What is missing for the fewest replicas, in words; empty where nothing is."""
    needed = sum(model.replicas * model.num_gpus for model in config.models.values())
    there = resources.get("GPU", 0)
    if needed <= there:
        return ""
    return f"the model servers ask for {needed:g} GPUs, and this machine has {there:g}: lower num_gpus or replicas"


def head_elsewhere(http: HttpConfig, nodes: Sequence[Mapping[str, Any]], own_node: str) -> str:
    """Serve's HTTP proxy is on the head node: from another one it is not at a loopback address. In words, or empty."""
    heads = [node for node in nodes if node["Alive"] and _HEAD in node["Resources"]]
    if not heads or heads[0]["NodeID"] == own_node or not is_loopback(local_host(http)):
        return ""
    address = heads[0]["NodeManagerAddress"]
    return f"HTTP is served on the cluster's head node: run this there, or with --host {address} and a token"


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one meets the handlers that were there before."""
    stop = threading.Event()

    def on_signal(_: int, __: FrameType | None) -> None:
        stop.set()
        put_back()  # now: whoever waits for this event may be waiting for Serve

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        put_back()


def _check_still_there(config: ServiceConfig) -> None:
    if config.app_name not in serve.status().applications:
        raise ServiceGoneError(f"the reward servers {config.app_name!r} were deleted by another process")


def _http(config: ServiceConfig) -> HttpConfig:
    assert config.http is not None, "serving is over HTTP"
    return config.http
