"""What an item's failure says of itself: a model that asks another server passes on why that one failed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from reward_servers.failures import ItemFailure, RewardServerError
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
