"""Requests made from the OpenAPI document by schemathesis, valid and not, and what must hold of every answer."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi import checks

# A malformed item of a call fails alone, with 200 and a failure in its place: `never_scored` checks that instead.
# A valid body may still ask for what cannot be (a history that ends with the supporter): the document cannot say so.
_EXCLUDED = [checks.negative_data_rejection, checks.positive_data_acceptance]


@dataclass
class Attack:
    """Sends `examples` requests of each kind to each operation of the document; counts the answers by status."""

    schema: Any  # schemathesis' view of the document
    document: dict[str, Any]
    headers: dict[str, str]
    statuses: Counter[int] = field(default_factory=Counter)

    def run(self, examples: int) -> None:
        for result in self.schema.get_all_operations():
            operation = result.ok()
            for mode in schemathesis.GenerationMode:
                if operation.method.upper() == "POST" or mode is schemathesis.GenerationMode.POSITIVE:
                    self._operation(operation, mode, examples)

    def _operation(self, operation: Any, mode: Any, examples: int) -> None:
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            response = case.call(headers=self.headers)
            self.statuses[response.status_code] += 1
            case.validate_response(response, headers=self.headers, excluded_checks=_EXCLUDED)
            never_scored(self.document, operation.path, response)

        send()

    @property
    def sent(self) -> int:
        return sum(self.statuses.values())


def never_scored(document: dict[str, Any], path: str, response: Any) -> None:
    """What the document does not allow is refused whole, or each of its malformed items fails alone."""
    described = document["paths"][path]
    if "post" not in described or response.status_code != 200:
        return
    name = described["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/")[-1]
    schemas = document["components"]["schemas"]
    body = json.loads(response.request.body)
    results = response.json().get("results")
    if results is None:
        assert len(response.json()["rewards"]) == len(body["query"])
        return
    entry = {**schemas[name]["properties"]["requests"]["items"], "components": document["components"]}
    validator = Draft202012Validator(entry)
    assert len(results) == len(body["requests"])
    for item, result in zip(body["requests"], results, strict=True):
        assert "failure" in result or validator.is_valid(item), f"scored, though malformed: {item!r}"
