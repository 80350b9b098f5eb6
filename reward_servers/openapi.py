"""The OpenAPI 3.1 document of the HTTP routes, with the limits of the running configuration in it."""

from __future__ import annotations

from typing import Any

from dialogue.tactics import TACTICS
from reward_servers.callers import CALLER_HEADER
from reward_servers.protocol import Dimension, FailureKind
from reward_servers.service_config import LimitsConfig, ServiceConfig

Schema = dict[str, Any]
_STRING: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_ERRORS = {
    "400": "The body as a whole is not of the documented form.",
    "401": "The token is missing or wrong.",
    "413": "Too many bytes, or too many requests in one call.",
    "415": "Not `Content-Type: application/json`.",
    "500": "An error in the server's own code.",
    "503": "A model server is not there, or its queue is full: ask again.",
    "504": "A model server did not answer in time: ask again.",
}
_CALLER = {
    "name": CALLER_HEADER,
    "in": "header",
    "required": False,
    "description": "A name of the caller's own: the servers take turns between callers. Else by the address.",
    "schema": _STRING,
}
_OF_A_GET = ("401", "500", "503", "504")


def openapi_document(config: ServiceConfig) -> dict[str, Any]:
    """The document; `config` gives the limits and whether a token is asked for."""
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Rapport reward servers",
            "version": "1",
            "description": "Tactics and empathy of supportive replies. The models are research artifacts, not therapy.",
        },
        "paths": _paths(),
        "components": {"schemas": _schemas(config.limits)},
    }
    if config.http is not None and config.http.token:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "basic": {"type": "http", "scheme": "basic", "description": "Any name; the token as password."},
        }
        document["security"] = [{"bearer": []}, {"basic": []}]
    return document


def _paths() -> dict[str, Any]:
    return {
        "/v1/score": {"post": _call("Tactics and empathy of replies", "ScoreCall", "ScoreAnswer")},
        "/v1/tactics": {"post": _call("Tactics of each sentence of replies", "TacticsCall", "TacticsAnswer")},
        "/v1/empathy": {"post": _call("The six dimensions of empathy of replies", "ScoreCall", "EmpathyAnswer")},
        "/v1/quality": {"post": _call("One number for each reply, Q of the reward", "ScoreCall", "QualityAnswer")},
        "/get_reward": {"post": _call("Rewards, as OpenRLHF's remote reward model asks", "RewardCall", "RewardAnswer")},
        "/healthz": {"get": _read("Whether every model answers, and its version", _json(_ref("Health")))},
        "/metrics": {"get": _read("Counters for Prometheus", {"text/plain": {"schema": _STRING}})},
        "/openapi.json": {"get": _read("This document", _json({"type": "object"}))},
    }


def _call(summary: str, asked: str, answered: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "parameters": [_CALLER],
        "requestBody": {"required": True, "content": _json(_ref(asked))},
        "responses": {"200": {"description": "Answered.", "content": _json(_ref(answered))}, **_errors(tuple(_ERRORS))},
    }


def _read(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": "Answered.", "content": content}, **_errors(_OF_A_GET)},
    }


def _errors(statuses: tuple[str, ...]) -> dict[str, Any]:
    return {status: {"description": _ERRORS[status], "content": _json(_ref("Error"))} for status in statuses}


def _schemas(limits: LimitsConfig) -> dict[str, Schema]:
    return {**_asked(limits), **_answered(), **_shared()}


def _asked(limits: LimitsConfig) -> dict[str, Schema]:
    most, seconds = limits.max_requests_per_call, {"type": "number", "exclusiveMinimum": 0}
    response = {**_STRING, "maxLength": limits.max_response_chars}
    message = _object({"role": {"enum": ["user", "assistant"]}, "content": _STRING})
    history = {
        **_list(message),
        "description": "What was said before, the seeker's message last; "
        f"at most {limits.max_history_chars} characters in all.",
    }
    texts = {**_list(_STRING), "maxItems": most}
    score = _object({"id": _STRING, "history": history, "response": response}, optional=("history",))
    tactics = _object({"id": _STRING, "response": response})
    return {
        "ScoreCall": _object({"requests": {**_list(score), "maxItems": most}, "timeout_s": seconds}, ("timeout_s",)),
        "TacticsCall": _object(
            {"requests": {**_list(tactics), "maxItems": most}, "timeout_s": seconds}, ("timeout_s",)
        ),
        "RewardCall": _object(
            {"query": texts, "prompts": {"anyOf": [texts, {"type": "null"}]}, "labels": {}}, ("prompts", "labels")
        ),
    }


def _answered() -> dict[str, Schema]:
    names = [tactic.value for tactic in TACTICS]
    tags: dict[str, Schema] = {
        "sentences": _list(_STRING),
        "sentence_tactics": _list(_list({"enum": names})),
        "tactic_probabilities": _list({**_list(_NUMBER), "minItems": len(names), "maxItems": len(names)}),
    }
    empathy = {"empathy": _object({d.value: _NUMBER for d in Dimension}), "aggregated_empathy": _NUMBER}
    versions = {"type": "object", "additionalProperties": _STRING}
    score = {"request_id": _STRING, **tags, **empathy, "quality": _NUMBER, "model_versions": versions}
    logs = {"type": "object", "additionalProperties": _list(_NUMBER)}
    return {
        "ScoreAnswer": _results(_object(score)),
        "TacticsAnswer": _results(_object(tags)),
        "EmpathyAnswer": _results(_object(empathy)),
        "QualityAnswer": _results(_object({"request_id": _STRING, "quality": _NUMBER, "model_versions": versions})),
        "RewardAnswer": _object({"rewards": _list(_NUMBER), "scores": _list(_NUMBER), "extra_logs": logs}),
        "Health": _object({"status": {"const": "ok"}, "models": versions}),
    }


def _shared() -> dict[str, Schema]:
    kind = {"enum": [kind.value for kind in FailureKind]}
    failure = {"kind": kind, "message": _STRING, "server": _STRING, "attempts": {"type": "integer"}}
    return {
        "Failure": _object({"request_id": _STRING, "failure": _object(failure)}),
        "Error": _object({"error": _object({"kind": kind, "message": _STRING})}),
    }


def _results(entry: Schema) -> Schema:
    """A result for each request in order; a reply that could not be scored has a failure instead, never a number."""
    return _object({"results": _list({"oneOf": [entry, _ref("Failure")]})})


def _object(properties: dict[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
