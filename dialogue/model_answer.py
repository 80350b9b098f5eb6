"""A language model's answer that was to be one JSON object: read strictly, never guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Set
from typing import Any

from dialogue.thinking import strip_thinking

_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


class UnreadableAnswerError(ValueError):
    """An answer that is not what was asked for. The message says what is wrong with it."""


def read_object(answer: str, names: Set[str]) -> dict[str, Any]:
    """The JSON object that a model was asked for, with exactly the keys `names`, in any order.

    A thinking block before the object and one code fence around it are taken off; everything else must be the object.

    Raises:
        UnreadableAnswerError: other text beside the object, or a key missing, unknown or there twice.
    """
    text = strip_thinking(answer).strip()
    fenced = _FENCE.fullmatch(text)
    try:
        found = json.loads(fenced[1] if fenced else text, object_pairs_hook=_without_doubles)
    except UnreadableAnswerError:
        raise
    except (ValueError, RecursionError) as error:
        raise UnreadableAnswerError(f"not one JSON object and nothing else: {text[:60]!r}") from error
    if not isinstance(found, dict):
        raise UnreadableAnswerError(f"expected an object, found {found!r:.60}")
    if found.keys() != names:
        wrong = ", ".join(sorted(found.keys() ^ names))
        raise UnreadableAnswerError(f"expected the {len(names)} keys asked for; missing or unknown: {wrong[:200]}")
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UnreadableAnswerError("a key is there twice")
    return found
