"""Scores of replies for the making of pairs: asked for some at a time, and on disk before the next are asked for.

    <folder of --out>/.<name of --out>.scores      one line each: [key, quality]

A key is a hash of the servers' model versions, the history and the reply. So a run that was killed goes on where it
was; a reply, a history or a model that has changed since is another key and is scored anew; and an option that only
chooses among scores may change. The file goes when the pairs are written.

Invariants
    A failed score is never a number, and is not kept: it is asked for again by the next start.
    All scores of a run are by the same models: a server that is replaced meanwhile ends it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Protocol

from reward_servers.protocol import Score, ScoreFailure, ScoreRequest, ScoreResult
from sft.config import ConfigError

TOGETHER = 64  # replies in one call of the scorer, which spreads them; what a run that is killed loses at most
MAX_FAILED_SHARE = 0.05

OnScored = Callable[[str, int, int], None]  # what is done, how many, of how many


class PairMakingError(RuntimeError):
    """The replies could not be scored, or their scores not kept. The message has the first cause."""


class Ranker(Protocol):
    """What says how good a reply is, `rl.reward_client.BlockingScorer` for one."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """One answer for each request, in order."""
        ...

    def versions(self) -> dict[str, str]:
        """Model -> version, as `Score.model_versions` has them."""
        ...


class Ranked(NamedTuple):
    """`qualities`: of each request in order, None where it could not be scored. `kept`: those of an earlier start."""

    qualities: list[float | None]
    kept: int


class ScoreJournal:
    """The file of scores of one `--out`. Every line is on disk when `add` returns."""

    def __init__(self, out: Path) -> None:
        """Raises ConfigError where nothing can be written beside `out`: before the work, not after it."""
        self.file = out.with_name(f".{out.name}.scores")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written there ({error.strerror})") from error

    def read(self) -> dict[str, float]:
        """Key -> quality. A line at which a run was killed is left out."""
        known = {}
        for line in self.file.read_bytes().splitlines():
            try:
                key, quality = json.loads(line)
                known[str(key)] = float(quality)
            except (ValueError, TypeError):
                continue
        return known

    def add(self, scores: Mapping[str, float]) -> None:
        """Raises PairMakingError where the file cannot be written."""
        text = "".join(f"{json.dumps([key, quality])}\n" for key, quality in scores.items())
        try:
            with self.file.open("a", encoding="utf-8") as out:
                out.write(f"\n{text}")  # the newline before it ends the line at which an earlier run was killed
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise PairMakingError(
                f"{self.file} cannot be written ({error.strerror}); what it holds is kept: started again, the ranking "
                "goes on from there"
            ) from error

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)


def rank(
    requests: Sequence[ScoreRequest], ranker: Ranker, journal: ScoreJournal, on_scored: OnScored | None = None
) -> Ranked:
    """The quality of each reply, from the journal where it has it.

    Args:
        on_scored: told before each call, and at the end.

    Raises:
        RewardServerError: the ranker does not answer at all.
        PairMakingError: more than 5 % of all replies could not be scored, which ends it as soon as that is certain; the
            ranker's models changed; the journal cannot be written.
    """
    versions, known = ranker.versions(), journal.read()
    keys = [key_of(versions, request) for request in requests]
    missing = [place for place, key in enumerate(keys) if key not in known]
    kept, failures = len(requests) - len(missing), list[ScoreFailure]()
    for start in range(0, len(missing), TOGETHER):
        _tell(on_scored, kept + start, len(requests))
        places = missing[start : start + TOGETHER]
        results = ranker.score([requests[place] for place in places])
        found = {}
        for place, result in zip(places, results, strict=True):
            if isinstance(result, ScoreFailure):
                failures.append(result)
            else:
                found[keys[place]] = _quality(result, versions)
        journal.add(found)
        known |= found
        _refuse_many(failures, len(requests), journal)
    _tell(on_scored, len(requests), len(requests))
    return Ranked([known.get(key) for key in keys], kept)


def key_of(versions: Mapping[str, str], request: ScoreRequest) -> str:
    """Of all that decides a score; the name of the request does not."""
    content = json.dumps([sorted(versions.items()), list(request.history), request.response])
    return blake2b(content.encode(), digest_size=16).hexdigest()


def _quality(score: Score, versions: Mapping[str, str]) -> float:
    if score.model_versions != versions:
        raise PairMakingError(
            f"the reply {score.request_id} was scored by {_named(score.model_versions)}, where the servers began with "
            f"{_named(versions)}: they were replaced meanwhile; start again to score all replies with the same models"
        )
    if not math.isfinite(score.quality):
        raise PairMakingError(
            f"the reply {score.request_id} has the quality {score.quality} by {_named(score.model_versions)}: that is "
            "no score; mend the servers and start again"
        )
    return score.quality


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "models without a version"


def _refuse_many(failures: Sequence[ScoreFailure], total: int, journal: ScoreJournal) -> None:
    if len(failures) > MAX_FAILED_SHARE * total:
        raise PairMakingError(
            f"{len(failures)} of {total} replies could not be scored, more than {MAX_FAILED_SHARE:.0%}. First: "
            f"{failures[0].server}: {failures[0].message}. Scores so far are in {journal.file}: started again, the "
            "ranking goes on from there"
        )


def _tell(on_scored: OnScored | None, done: int, total: int) -> None:
    if on_scored is not None:
        on_scored("replies scored", done, total)
