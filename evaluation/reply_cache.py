"""Replies on disk, found by the content of what was asked: model, messages and sampling.

    <folder>/<first two digits>/<SHA-256 of the key as JSON>.json    {"key": {...}, "text": "..."}

A file appears whole or not at all. One that is damaged, or that holds another key, counts as absent and is replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.files import EvaluationDataError, write_json

Key = Mapping[str, Any]


class ReplyCache:
    """A folder of replies; made when the first one is put in. Several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: Key) -> str | None:
        """The reply to what `key` describes, or None."""
        try:
            entry = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(entry, dict) or entry.get("key") != key or not isinstance(entry.get("text"), str):
            return None
        return entry["text"]

    def put(self, key: Key, text: str) -> None:
        """Keep a reply.

        Raises:
            EvaluationDataError: the folder cannot be written.
        """
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EvaluationDataError(f"cannot write to the cache {self._folder}: {error.strerror}") from error
        write_json(path, {"key": key, "text": text})

    def _path(self, key: Key) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.json"
