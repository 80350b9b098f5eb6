"""What a gateway counts, as Prometheus reads it at `/metrics`.

Each gateway counts for itself and its series carry its name, so with one gateway (the default) the figures are the
service's. With several, one scrape meets one of them: scrape often, and add them up over `gateway`.
A model server has no page of its own: it tells with each answer what it did, and the gateway that asked counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from reward_servers.failures import ItemFailure
from reward_servers.protocol import ScoreFailure

CONTENT_TYPE = CONTENT_TYPE_LATEST
UNKNOWN_ROUTE = "other"  # one label for all paths that do not exist: a caller must not be able to make up series
OK = "ok"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class How(StrEnum):
    """Where a model server's answer came from."""

    COMPUTED = "computed"
    KEPT = "kept"
    JOINED = "joined"
    FAILED = "failed"


class GatewayMetrics:
    """Counters of one gateway; `text` is the page."""

    def __init__(self, gateway: str) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"gateway": gateway}
        self._requests = Counter(
            "rapport_reward_http_requests",
            "HTTP requests answered.",
            ("gateway", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "rapport_reward_http_request_seconds",
            "Time from a request's head to its answer.",
            ("gateway", "route"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._replies = Counter(
            "rapport_reward_replies",
            "Replies answered over HTTP and over Ray handles, by the work asked for and its outcome.",
            ("gateway", "work", "outcome"),
            registry=self._registry,
        )
        self._model_items = Counter(
            "rapport_reward_model_items",
            "Items sent to a model server: computed, kept from before, joined to equal work in flight, or failed.",
            ("gateway", "deployment", "how"),
            registry=self._registry,
        )
        self._open = Gauge(
            "rapport_reward_calls_open",
            "Calls that the gateway holds now.",
            ("gateway",),
            registry=self._registry,
        )
        self._open.labels(**self._labels).set(0)
        self._line = Gauge(
            "rapport_reward_line",
            "Pieces of work that wait at the gateway for their turn at a model server.",
            ("gateway", "deployment"),
            registry=self._registry,
        )

    def text(self) -> bytes:
        """The page, in Prometheus' text format."""
        return generate_latest(self._registry)

    def count_request(self, route: str, status: int, began: float) -> None:
        """An HTTP request that began at `perf_counter()` = `began` and was answered now."""
        self._requests.labels(route=route, status=str(status), **self._labels).inc()
        self._seconds.labels(route=route, **self._labels).observe(perf_counter() - began)

    def watch_line(self, deployment: str, length: Callable[[], int]) -> None:
        """Show `length()` as what waits for a model server."""
        self._line.labels(deployment=deployment, **self._labels).set_function(length)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count a call as open inside the `with`."""
        gauge = self._open.labels(**self._labels)
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def count_replies(self, work: str, results: Sequence[object]) -> None:
        """Replies of one call by outcome."""
        for result in results:
            outcome = result.kind.value if isinstance(result, ScoreFailure) else OK
            self._replies.labels(work=work, outcome=outcome, **self._labels).inc()

    def count_model(self, deployment: str, answers: Sequence[object], kept: int, joined: int) -> None:
        """Answers of one model server to one call, of which so many were kept or joined."""
        failed = sum(isinstance(answer, ItemFailure) for answer in answers)
        computed = max(0, len(answers) - kept - joined - failed)  # a failure may have been joined
        counts = {How.COMPUTED: computed, How.KEPT: kept, How.JOINED: joined, How.FAILED: failed}
        for how, count in counts.items():
            self._model_items.labels(deployment=deployment, how=how.value, **self._labels).inc(count)
