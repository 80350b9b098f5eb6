"""The JSON form of the protocol, and the checks at the border of the service.

A number crosses as the shortest decimal that reads back to the same double, so a score over HTTP is bitwise the score
over a Ray handle. Anything not of the documented form is a `WireError` with the place in its message.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from dialogue.conversation import Message
from dialogue.tactics import TACTICS, Tactic
from reward_servers.protocol import (
    Dimension,
    EmpathyResult,
    EmpathyScore,
    FailureKind,
    QualityResult,
    Score,
    ScoreFailure,
    ScoreRequest,
    ScoreResult,
    TaggedReply,
    TagResult,
)
from reward_servers.service_config import LimitsConfig


class WireError(ValueError):
    """A body or one of its items does not have the documented form."""


# --- checks of a request -------------------------------------------------------------------------------------------


def complaint_about(request: ScoreRequest, limits: LimitsConfig) -> str | None:
    """Why this request cannot be scored, in words for a person; None when it can."""
    for i, message in enumerate(request.history):
        if message["role"] not in ("user", "assistant"):
            return f"history[{i}].role is {message['role']!r}, but must be user or assistant"
        if not _is_unicode(message["content"]):
            return f"history[{i}].content is not valid Unicode (half a surrogate pair)"
    if request.history and request.history[-1]["role"] != "user":
        return "the last message of the history must be the user's: a reply answers the seeker"
    length = sum(len(message["content"]) for message in request.history)
    if length > limits.max_history_chars:
        return f"the history has {length} characters, over the limit of {limits.max_history_chars}"
    return complaint_about_response(request.response, limits)


def complaint_about_response(response: str, limits: LimitsConfig) -> str | None:
    """As `complaint_about`, for a reply alone."""
    if len(response) > limits.max_response_chars:
        return f"the response has {len(response)} characters, over the limit of {limits.max_response_chars}"
    if not _is_unicode(response):
        return "the response is not valid Unicode (half a surrogate pair)"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# --- requests ------------------------------------------------------------------------------------------------------


def encode_request(request: ScoreRequest) -> dict[str, Any]:
    """`{"id", "history": [{"role", "content"}...], "response"}`."""
    return {"id": request.id, "history": [dict(m) for m in request.history], "response": request.response}


def decode_request(value: object, place: str) -> ScoreRequest:
    """Inverse of `encode_request`; `place` names the item in errors."""
    entry = _mapping(value, place)
    _only(entry, ("id", "history", "response"), place)
    history = tuple(
        _decode_message(message, f"{place}.history[{i}]")
        for i, message in enumerate(_list(entry.get("history", []), f"{place}.history"))
    )
    return ScoreRequest(_decode_id(entry, place), history, _text(entry, "response", place))


def decode_response(value: object, place: str) -> tuple[str, str]:
    """`{"id", "response"}` as a pair."""
    entry = _mapping(value, place)
    _only(entry, ("id", "response"), place)
    return _decode_id(entry, place), _text(entry, "response", place)


def request_id_of(value: object, place: str) -> str:
    """The id of an item that may be malformed otherwise, else its place: an answer must name what it answers."""
    named = value.get("id") if isinstance(value, dict) else None
    return named if isinstance(named, str) and _is_unicode(named) else place


def _decode_id(entry: dict[str, Any], place: str) -> str:
    name = _text(entry, "id", place)
    if not _is_unicode(name):
        raise WireError(f"{place}.id is not valid Unicode (half a surrogate pair)")
    return name


def _decode_message(value: object, place: str) -> Message:
    entry = _mapping(value, place)
    _only(entry, ("role", "content"), place)
    return {"role": _text(entry, "role", place), "content": _text(entry, "content", place)}


# --- answers -------------------------------------------------------------------------------------------------------


def encode_result(result: ScoreResult) -> dict[str, Any]:
    """A score, or `{"request_id", "failure": {...}}`."""
    if isinstance(result, ScoreFailure):
        return _encode_failure(result)
    return {
        "request_id": result.request_id,
        **_encode_tags(result),
        "empathy": result.empathy.as_dict(),
        "aggregated_empathy": result.empathy.aggregated,
        "quality": result.quality,
        "model_versions": dict(result.model_versions),
    }


def decode_result(value: object, place: str) -> ScoreResult:
    """Inverse of `encode_result`."""
    entry = _mapping(value, place)
    if "failure" in entry:
        return _decode_failure(entry, place)
    tags = _decode_tags(entry, place)
    dimensions = _mapping(entry.get("empathy"), f"{place}.empathy")
    versions = _mapping(entry.get("model_versions"), f"{place}.model_versions")
    return Score(
        _text(entry, "request_id", place),
        tags.sentences,
        tags.sentence_tactics,
        tags.tactic_probabilities,
        EmpathyScore(tuple(_number(dimensions.get(d.value), f"{place}.empathy.{d.value}") for d in Dimension)),
        _number(entry.get("quality"), f"{place}.quality"),
        {name: _text(versions, name, f"{place}.model_versions") for name in versions},
    )


def encode_empathy(result: EmpathyResult) -> dict[str, Any]:
    """`{"empathy": {dimension: 1 to 5}, "aggregated_empathy"}`, or `{"request_id", "failure": {...}}`."""
    if isinstance(result, ScoreFailure):
        return _encode_failure(result)
    return {"empathy": result.as_dict(), "aggregated_empathy": result.aggregated}


def encode_quality(result: QualityResult) -> dict[str, Any]:
    """`{"request_id", "quality", "model_versions"}` on the model's own scale, or `{"request_id", "failure": {...}}`."""
    if isinstance(result, ScoreFailure):
        return _encode_failure(result)
    return {
        "request_id": result.request_id,
        "quality": result.quality,
        "model_versions": dict(result.model_versions),
    }


def encode_tags(result: TagResult) -> dict[str, Any]:
    """A tagged reply, or `{"request_id", "failure": {...}}`."""
    return _encode_failure(result) if isinstance(result, ScoreFailure) else _encode_tags(result)


def decode_tags(value: object, place: str) -> TagResult:
    """Inverse of `encode_tags`."""
    entry = _mapping(value, place)
    return _decode_failure(entry, place) if "failure" in entry else _decode_tags(entry, place)


def _encode_tags(reply: Score | TaggedReply) -> dict[str, Any]:
    return {
        "sentences": list(reply.sentences),
        "sentence_tactics": [[tactic.value for tactic in tactics] for tactics in reply.sentence_tactics],
        "tactic_probabilities": [list(row) for row in reply.tactic_probabilities],
    }


def _decode_tags(entry: dict[str, Any], place: str) -> TaggedReply:
    sentences = _list(entry.get("sentences"), f"{place}.sentences")
    tactics = _list(entry.get("sentence_tactics"), f"{place}.sentence_tactics")
    rows = _list(entry.get("tactic_probabilities"), f"{place}.tactic_probabilities")
    if not len(sentences) == len(tactics) == len(rows):
        raise WireError(f"{place}: {len(sentences)} sentences, {len(tactics)} tactic lists, {len(rows)} probabilities")
    return TaggedReply(
        tuple(_string(sentence, f"{place}.sentences[{i}]") for i, sentence in enumerate(sentences)),
        tuple(_decode_tactics(names, f"{place}.sentence_tactics[{i}]") for i, names in enumerate(tactics)),
        tuple(_decode_row(row, f"{place}.tactic_probabilities[{i}]") for i, row in enumerate(rows)),
    )


def _decode_tactics(value: object, place: str) -> tuple[Tactic, ...]:
    names = [_string(name, place) for name in _list(value, place)]
    unknown = sorted(set(names) - {tactic.value for tactic in TACTICS})
    if unknown:
        raise WireError(f"{place}: unknown tactics {unknown}; the ten are {', '.join(TACTICS)}")
    return tuple(Tactic(name) for name in names)


def _decode_row(value: object, place: str) -> tuple[float, ...]:
    row = tuple(_number(x, place) for x in _list(value, place))
    if len(row) != len(TACTICS):
        raise WireError(f"{place} has {len(row)} probabilities instead of {len(TACTICS)}")
    return row


def _encode_failure(failure: ScoreFailure) -> dict[str, Any]:
    detail = {"kind": failure.kind.value, "message": failure.message, "server": failure.server}
    return {"request_id": failure.request_id, "failure": {**detail, "attempts": failure.attempts}}


def _decode_failure(entry: dict[str, Any], place: str) -> ScoreFailure:
    detail = _mapping(entry["failure"], f"{place}.failure")
    kind = _text(detail, "kind", f"{place}.failure")
    if kind not in [known.value for known in FailureKind]:
        raise WireError(f"{place}.failure.kind is {kind!r}; known are {', '.join(FailureKind)}")
    attempts = int(_number(detail.get("attempts"), f"{place}.failure.attempts"))
    texts = (_text(detail, "message", place), _text(detail, "server", place))
    return ScoreFailure(_text(entry, "request_id", place), FailureKind(kind), *texts, attempts)


# --- JSON values ---------------------------------------------------------------------------------------------------


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        WireError: not UTF-8, not JSON, nested beyond what the parser takes, or not an object.
    """
    try:
        value = json.loads(raw)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise WireError(f"the body is not JSON: {error}") from error
    return _mapping(value, "the body")


def body_list(body: dict[str, Any], key: str, others: Sequence[str] = ()) -> list[Any]:
    """The list `body[key]`, with no keys in the body but `key` and `others`."""
    _only(body, (key, *others), "the body")
    return _list(body.get(key), key)


def body_texts(value: object, key: str) -> list[str]:
    """A list of strings, each valid Unicode."""
    texts = [_string(text, f"{key}[{i}]") for i, text in enumerate(_list(value, key))]
    for i, text in enumerate(texts):
        if not _is_unicode(text):
            raise WireError(f"{key}[{i}] is not valid Unicode (half a surrogate pair)")
    return texts


def body_seconds(body: dict[str, Any], key: str, otherwise: float) -> float:
    """A positive number of seconds, or `otherwise` when the key is absent."""
    seconds = _number(body.get(key, otherwise), key)
    if seconds <= 0:
        raise WireError(f"{key} is {seconds}, but must be above 0")
    return seconds


def _mapping(value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WireError(f"{place} must be an object, not {_kind(value)}")
    return value


def _list(value: object, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise WireError(f"{place} must be a list, not {_kind(value)}")
    return value


def _string(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise WireError(f"{place} must be a string, not {_kind(value)}")
    return value


def _text(entry: dict[str, Any], key: str, place: str) -> str:
    return _string(entry.get(key), f"{place}.{key}")


def _number(value: object, place: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)  # the comparison is false for NaN, and exact for integers too large for a double
    raise WireError(f"{place} must be a finite number, not {_kind(value)}")


def _only(entry: dict[str, Any], keys: Sequence[str], place: str) -> None:
    unknown = sorted(set(entry) - set(keys))
    if unknown:
        raise WireError(f"{place} has unknown keys {unknown}; known are {', '.join(keys)}")


def _kind(value: object) -> str:
    return "missing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
