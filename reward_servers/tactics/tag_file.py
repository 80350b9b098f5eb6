"""`rapport tag`: a file of replies in, the same file with the tactics of every sentence out."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dialogue.sentences import split_sentences

if TYPE_CHECKING:
    from reward_servers.tactics.encoder_tagger import EncoderTagger

_DIGITS = 4


class TagFileError(ValueError):
    """A line or a path cannot be used. The message names the file, the line and what would be right."""


def check_file(source: Path, target: Path) -> None:
    """Read all of `source` and see whether `target` may be written: seconds, where loading a tagger takes longer.

    Raises:
        TagFileError: as `tag_file`.
    """
    if not source.is_file():
        raise TagFileError(f"{source}: no such file")
    if target.exists() and target.samefile(source):
        raise TagFileError(f"{target}: the output would overwrite the input; choose another name")
    if not target.parent.is_dir():
        raise TagFileError(f"{target}: cannot write there (no such folder)")
    for _ in _entries(source):
        pass


def tag_file(
    source: Path, target: Path, tagger: EncoderTagger, on_line: Callable[[int], None] | None = None
) -> tuple[int, int]:
    """Tag every line of a JSONL file, one at a time.

    A line is an object with `response`, a text, and perhaps `sentences`, the same text already cut. Added are
    `sentence_tactics` (S lists of names), `sentence_tactic_probabilities` (S lists of K = 10, in the order of
    `dialogue.tactics.TACTICS`), and `sentences` where they were not given. All other keys are kept.

    The output is written beside `target` under a temporary name and renamed when complete: there is never half a file.

    Args:
        source: JSONL; empty lines are skipped.
        target: must not be `source`.
        tagger: the tagger to use.
        on_line: called with the bytes read so far after every line.

    Returns:
        The number of replies and of sentences tagged.

    Raises:
        TagFileError: `source` is missing or is `target`, `target` cannot be written, or a line is not as above.
    """
    check_file(source, target)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        raise TagFileError(f"{target}: cannot write there ({error.strerror})") from error
    partial = Path(name)
    try:
        replies = sentences = 0
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            for given in _entries(source, on_line):
                entry = _tag_entry(given, tagger)
                out.write(json.dumps(entry, ensure_ascii=False) + "\n")
                replies, sentences = replies + 1, sentences + len(entry["sentences"])
        partial.chmod(0o644)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return replies, sentences


def _entries(source: Path, on_line: Callable[[int], None] | None = None) -> Iterator[dict[str, Any]]:
    read = 0
    with source.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            read += len(line)
            if line.strip():
                yield _parsed(line, f"{source}, line {number}")
            if on_line is not None:
                on_line(read)


def _tag_entry(entry: dict[str, Any], tagger: EncoderTagger) -> dict[str, Any]:
    sentences = entry["sentences"] if "sentences" in entry else split_sentences(entry["response"])
    probabilities = tagger.tag([sentences])[0]
    return entry | {
        "sentences": sentences,
        "sentence_tactics": [[tactic.value for tactic in tactics] for tactics in tagger.decide(probabilities)],
        "sentence_tactic_probabilities": [[round(float(p), _DIGITS) for p in row] for row in probabilities],
    }


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TagFileError(f"{where}: not JSON ({error})") from error
    if not isinstance(entry, dict):
        raise TagFileError(f"{where}: expected an object, found {type(entry).__name__}")
    if not isinstance(entry.get("response"), str):
        raise TagFileError(f'{where}: "response" must be there and be a text')
    sentences = entry.get("sentences", [])
    if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise TagFileError(f'{where}: "sentences" must be a list of texts')
    return entry
