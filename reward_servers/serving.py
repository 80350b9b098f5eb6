"""Start the reward servers, say how to ask them, and stay until told to stop.

starting -> serving -> SIGINT or SIGTERM -> draining (no new calls, those in flight at most ten seconds) -> gone
                    -> the application is deleted by someone else -> error
"""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ray import serve

from reward_servers.serve import start_reward_servers, stop_reward_servers
from reward_servers.service_config import HttpConfig, ServiceConfig, ServiceConfigError

_WATCH_S = 5.0
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
            say(announcement(config))
            while not stop.wait(_WATCH_S):
                _check_still_there(config)
        say("stopping: no new calls; those in flight may finish")  # handlers are back: another Ctrl-C ends at once
    finally:
        stop_reward_servers(config.app_name)
    say("stopped")


def announcement(config: ServiceConfig) -> str:
    """Where the service is, and a curl that works in a shell as it stands."""
    http = _http(config)
    url = f"http://{local_host(http)}:{http.port}"
    body = json.dumps({"requests": [_EXAMPLE]})
    token = "  -H 'Authorization: Bearer '\"$RAPPORT_REWARD_TOKEN\" \\\n" if http.token else ""
    return (
        f"reward servers {config.app_name!r} at {url}\n\n"
        f"curl {url}/v1/score \\\n{token}  -H 'Content-Type: application/json' \\\n  -d '{body}'\n\n"
        f"{url}/openapi.json describes all routes; Ctrl-C stops"
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


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one meets the handlers that were there before."""
    stop = threading.Event()

    def on_signal(_: int, __: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_still_there(config: ServiceConfig) -> None:
    if config.app_name not in serve.status().applications:
        raise ServiceGoneError(f"the reward servers {config.app_name!r} were deleted by another process")


def _http(config: ServiceConfig) -> HttpConfig:
    assert config.http is not None, "serving is over HTTP"
    return config.http
