"""Whatever schemathesis makes of the OpenAPI document, the border answers as the document says; in one process."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hostile import Attack
from starlette.requests import Request
from test_http_surface import CONFIG, DOCUMENT, TOKEN, empathy, health, quality, score, tag

from reward_servers.http_routes import Calls, answer
from reward_servers.service_metrics import GatewayMetrics

EXAMPLES = 15  # of each kind and operation


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The routes as a gateway serves them, with models that answer at once."""
    if scope["type"] == "http":
        response = await answer(Request(scope, receive), CONFIG, Calls(score, tag, empathy, quality, health), METRICS)
        await response(scope, receive, send)
        return
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


METRICS = GatewayMetrics("a")
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def schema() -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=AUTHORISED)


def test_every_answer_is_as_the_document_says(schema: Any) -> None:
    attack = Attack(schema, DOCUMENT, AUTHORISED)
    attack.run(EXAMPLES)
    print(f"{attack.sent} requests: {dict(attack.statuses)}")
    assert attack.sent > 8 * EXAMPLES
    assert {200, 400} <= set(attack.statuses) <= {200, 400, 413, 415}


def test_without_the_token_everything_is_refused(schema: Any) -> None:
    attack = Attack(schema, DOCUMENT, {"Authorization": "Bearer guessed"})
    attack.run(3)
    assert set(attack.statuses) == {401}
