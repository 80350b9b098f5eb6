"""`rapport tag`: a file of replies in, the same file with the tactics of every sentence out.

Probabilities are kept in a hidden file beside the output as they are made, under the tagger's version and the reply's
own text, so a run that was stopped goes on where it was. The file goes when the output is there.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dialogue.tactics import TACTICS, Tactic
from reward_servers.failures import UnfitItemError
from reward_servers.tactics.evaluation import macro_f1
from reward_servers.tactics.kinds import tag_replies
from reward_servers.tactics.reply_files import Reply, ReplyFile, TagFileError, read_replies

if TYPE_CHECKING:
    from reward_servers.tactics.kinds import Probabilities, Tagger

_DIGITS = 4
_TOGETHER = 16  # replies tagged in one call; what a run that is killed loses at most

__all__ = ["Agreement", "TagFileError", "Tagged", "check_file", "tag_file"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """With the tags that were in the file.

    Attributes:
        sentences: how many were compared.
        replies_cut_otherwise: replies whose tags are of another number of sentences; they are not compared.
        equal: share of the sentences' yes and no, ten a sentence, that are the same; NaN where none was compared.
        macro_f1: per tactic, in the order of `TACTICS`, the file's tags taken as the truth.
    """

    sentences: int
    replies_cut_otherwise: int
    equal: float
    macro_f1: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Tagged:
    """What was done; `agreement` is None where the file had no tags."""

    replies: int
    sentences: int
    agreement: Agreement | None


def check_file(source: Path, target: Path) -> ReplyFile:
    """Read all of `source` and see whether `target` may be written: seconds, where loading a tagger takes longer.

    Returns:
        What was read; `tag_file` takes it.

    Raises:
        TagFileError, DataError: as `tag_file`.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise TagFileError(f"{target}: the output would overwrite the input; choose another name")
    if not target.parent.is_dir():
        raise TagFileError(f"{target}: cannot write there (no such folder)")
    if target.is_dir():
        raise TagFileError(f"{target}: it is a folder; give the name of a file in it")
    if not os.access(target.parent, os.W_OK):
        raise TagFileError(f"{target}: cannot write there (no permission)")
    return read_replies(source)


def tag_file(
    source: Path | ReplyFile, target: Path, tagger: Tagger, on_reply: Callable[[int, int], None] | None = None
) -> Tagged:
    """Tag every reply of a file whose layout is one of `reply_files`.

    Beside each reply are added `sentence_tactics` (S lists of names), `sentence_tactic_probabilities` (S lists of
    K = 10, in the order of `dialogue.tactics.TACTICS`), `sentences` where they were not given, and, but for lines of
    replies alone, `tactic_counts`: MINT's untagged conversations become its tagged ones. All other keys are kept.

    The output is written beside `target` under a temporary name and renamed when complete: there is never half a file.

    Args:
        source: the file, or what `check_file` has read of it.
        target: must not be `source`.
        tagger: the tagger to use.
        on_reply: called with the replies tagged so far and all of them, at first and whenever there are more.

    Raises:
        TagFileError: `source` is missing or is `target`, `target` cannot be written, an entry is not as above, or the
            tagger cannot read a reply, which is told before the first one is tagged.
        DataError: conversations that break a rule of `dialogue.loaders`.
    """
    file = check_file(source, target) if isinstance(source, Path) else source
    journal = _Journal(target.parent / f".{target.name}.tags", tagger.version)
    probabilities = _all_probabilities(file.replies, tagger, journal, on_reply)
    decided = [tagger.decide(found) for found in probabilities]
    agreement = _agreement(file.replies, decided)  # before the tags in the file are replaced
    for reply, tactics, found in zip(file.replies, decided, probabilities, strict=True):
        file.add_tags(reply, tactics, [[round(float(p), _DIGITS) for p in row] for row in found])
    _write(target, file.as_text())
    journal.remove()
    return Tagged(len(file.replies), sum(len(reply.sentences) for reply in file.replies), agreement)


def _all_probabilities(
    replies: Sequence[Reply], tagger: Tagger, journal: _Journal, on_reply: Callable[[int, int], None] | None
) -> list[Probabilities]:
    """(S, K) of every reply, from the journal where it has them."""
    known = journal.read()
    keys = [journal.key(reply) for reply in replies]
    missing = [i for i, key in enumerate(keys) if key not in known]
    _check_readable([replies[i] for i in missing], tagger)
    if on_reply is not None:
        on_reply(len(replies) - len(missing), len(replies))
    for start in range(0, len(missing), _TOGETHER):
        some = missing[start : start + _TOGETHER]
        tagged = tag_replies(tagger, [replies[i].text for i in some], [list(replies[i].sentences) for i in some])
        for i, found in zip(some, tagged, strict=True):
            journal.add(keys[i], found)
            known[keys[i]] = found
        if on_reply is not None:
            on_reply(len(replies) - len(missing) + start + len(some), len(replies))
    return [known[key] for key in keys]


def _check_readable(replies: Sequence[Reply], tagger: Tagger) -> None:
    """One reply that is too long would else end a run after hours."""
    check = getattr(tagger, "check", None)
    if check is None:
        return
    for reply in replies:
        try:
            check(reply.text, reply.sentences)
        except UnfitItemError as error:
            raise TagFileError(f"{reply.where}: {error}") from error


class _Journal:
    """Probabilities by reply, one line each, on disk as soon as they are made."""

    def __init__(self, path: Path, version: str) -> None:
        self._path, self._version = path, version

    def key(self, reply: Reply) -> str:
        content = json.dumps([self._version, reply.text, reply.sentences])
        return blake2b(content.encode(), digest_size=16).hexdigest()

    def read(self) -> dict[str, Probabilities]:
        known: dict[str, Probabilities] = {}
        if not self._path.is_file():
            return known
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                key, rows = json.loads(line)
            except ValueError:
                continue  # empty, or where the last run was killed
            known[key] = np.array(rows, dtype=np.float32).reshape(-1, len(TACTICS))
        return known

    def add(self, key: str, found: Probabilities) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as out:
                # The newline before it ends the line at which an earlier run was killed.
                out.write(f"\n{json.dumps([key, found.astype(float).tolist()])}\n")
        except OSError as error:
            raise TagFileError(f"{self._path}: cannot write there ({error.strerror})") from error

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def _agreement(replies: Sequence[Reply], decided: Sequence[tuple[tuple[Tactic, ...], ...]]) -> Agreement | None:
    given = [(reply.given, tactics) for reply, tactics in zip(replies, decided, strict=True) if reply.given is not None]
    if not given:
        return None
    same_cut = [(before, now) for before, now in given if len(before) == len(now)]
    truth, found = (_matrix([names for pair in same_cut for names in pair[side]]) for side in (0, 1))
    return Agreement(
        sentences=len(truth),
        replies_cut_otherwise=len(given) - len(same_cut),
        equal=float((truth == found).mean()) if len(truth) else math.nan,
        macro_f1=tuple(float(x) for x in macro_f1(truth, found)),
    )


def _matrix(sentences: Sequence[Sequence[Tactic] | frozenset[Tactic]]) -> NDArray[np.float32]:
    """(S, K) zeros and ones."""
    rows = [[float(tactic in names) for tactic in TACTICS] for names in sentences]
    return np.array(rows, dtype=np.float32).reshape(-1, len(TACTICS))


def _write(target: Path, text: str) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        raise TagFileError(f"{target}: cannot write there ({error.strerror})") from error
    partial = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        partial.chmod(0o644)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
