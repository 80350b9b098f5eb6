"""What an item's failure says of itself: a model that asks another server passes on why that one failed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from reward_servers.failures import ItemFailure, RewardServerError, UnfitItemError
from reward_servers.model_server import ScorerServer
from reward_servers.protocol import EmpathyScore, FailureKind, ScoreRequest
from reward_servers.service_config import SCORER

GOOD = EmpathyScore((3.0,) * 6)


class Model:
    """Raises on a reply of the text `bad`."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def score(self, requests: Sequence[ScoreRequest]) -> list[EmpathyScore]:
        if any(request.response == "bad" for request in requests):
            raise self.error
        return [GOOD for _ in requests]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (UnfitItemError("too long"), FailureKind.INVALID_REQUEST, "too long"),
        (ValueError("cannot be read"), FailureKind.INTERNAL, "ValueError: cannot be read"),
        (RewardServerError(FailureKind.OVERLOADED, "HTTP 429", "http://judge"), FailureKind.OVERLOADED, "HTTP 429"),
    ],
)
def test_an_item_fails_alone_and_with_its_own_kind(error: Exception, kind: FailureKind, said: str) -> None:
    server = object.__new__(ScorerServer)  # without a replica around it
    server._name, server._model = SCORER, Model(error)
    items = [ScoreRequest("a", (), text) for text in ("good", "bad", "fine")]
    first, failed, last = server._predict_isolated(items)
    assert (first, last) == (GOOD, GOOD)
    assert isinstance(failed, ItemFailure) and failed.kind is kind and said in failed.message


class SlowModel:
    """Holds its work until it is let go, but for the probe, which it knows: as a judge with a cache."""

    def __init__(self, concurrent: bool) -> None:
        self.concurrent = concurrent
        self.let_go = Event()

    def score(self, requests: Sequence[ScoreRequest]) -> list[EmpathyScore]:
        assert [request.id for request in requests] == ["probe"] or self.let_go.wait(30)
        return [GOOD for _ in requests]


@pytest.mark.parametrize("concurrent", [True, False])
def test_only_a_model_that_waits_for_another_server_is_healthy_while_it_works(concurrent: bool) -> None:
    server = object.__new__(ScorerServer)
    model = SlowModel(concurrent)
    server._name, server._model, server._first_probe = SCORER, model, [GOOD]
    server._thread = ThreadPoolExecutor(max_workers=1)

    async def check() -> bool:
        """Whether the check is done while the work is held."""
        work = asyncio.create_task(server._run_batch([ScoreRequest("a", (), "held")]))
        await asyncio.sleep(0)
        checked = asyncio.create_task(server.check_health())
        done, _ = await asyncio.wait([checked], timeout=5 if concurrent else 0.2)
        model.let_go.set()
        await asyncio.gather(work, checked)
        return bool(done)

    assert asyncio.run(check()) is concurrent
