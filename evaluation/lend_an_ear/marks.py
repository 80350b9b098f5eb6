"""What the reward servers say of a reply, kept by content: sentences, their tactics, and the six dimensions.

    replies -> cache -> what it does not hold -> reward servers, some at a time -> cache, then the marks

The servers are asked for only when the cache lacks something, so that a finished run is repeated without them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogue.tactics import Tactic, TacticCounts, count_tactics
from evaluation.reply_cache import ReplyCache
from reward_servers import protocol
from reward_servers.protocol import Dimension, Score, ScoreFailure, ScoreRequest, ScoreResult
from reward_servers.service_config import SCORER, TAGGER

AT_ONCE = 32  # replies scored between two looks at the progress; what is done is in the cache
_MODELS = ("tactics", "empathy")  # folders of reward_servers whose code and weights decide a score

OnMarks = Callable[[int, int], None]  # how many are done, of how many


class MarkingError(RuntimeError):
    """A reply could not be tagged and scored. The message names it, the server and the root cause."""


# Whatever tags and scores, `RewardClient.score_sync` for one: an answer for each request, in order.
Marker = Callable[[Sequence[ScoreRequest]], Sequence[ScoreResult]]


@dataclass(frozen=True, slots=True)
class Mark:
    """S sentences with their tactics, six ratings by the scorer, and the versions of the two models."""

    sentences: tuple[str, ...]
    sentence_tactics: tuple[tuple[Tactic, ...], ...]
    dimensions: tuple[float, ...]
    tagger: str
    scorer: str

    @property
    def counts(self) -> TacticCounts:
        return count_tactics(self.sentence_tactics)


def shipped_models() -> str:
    """Names the tagger and the scorer that come with Rapport: a hash of their code and weights."""
    root = Path(protocol.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for name in _MODELS for path in (root / name).rglob("*") if _decides(path)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"shipped {digest.hexdigest()[:16]}"


def _decides(path: Path) -> bool:
    return path.is_file() and path.suffix != ".pyc"


def mark_all(
    requests: Sequence[ScoreRequest],
    models: str,
    start: Callable[[], Marker],
    cache: ReplyCache,
    on_marks: OnMarks | None = None,
) -> list[Mark]:
    """One mark for each request, in order.

    Args:
        models: names the models behind `start`, for the cache.
        start: makes the client; called at most once, and only where the cache lacks something.

    Raises:
        MarkingError: a reply could not be scored; what was done before it is in the cache.
    """
    kept = [_kept(cache.get(_key(models, request))) for request in requests]
    open_places = [place for place, mark in enumerate(kept) if mark is None]
    marker = start() if open_places else None
    for begin in range(0, len(open_places), AT_ONCE):
        if on_marks is not None:
            on_marks(len(requests) - len(open_places) + begin, len(requests))
        places = open_places[begin : begin + AT_ONCE]
        assert marker is not None
        for place, result in zip(places, marker([requests[p] for p in places]), strict=True):
            kept[place] = mark = _mark(requests[place], result)
            cache.put(_key(models, requests[place]), _as_text(mark))
    return [mark for mark in kept if mark is not None]


def _mark(request: ScoreRequest, result: ScoreResult) -> Mark:
    if isinstance(result, ScoreFailure):
        raise MarkingError(
            f"the reply {request.id} could not be tagged and scored in {result.attempts} call(s): {result.server}: "
            f"{result.message} ({result.kind.value}); started again, the run goes on from here"
        )
    return _of_score(result)


def _of_score(score: Score) -> Mark:
    versions = score.model_versions
    return Mark(
        score.sentences,
        score.sentence_tactics,
        score.empathy.dimensions,
        versions.get(TAGGER, "unknown"),
        versions.get(SCORER, "unknown"),
    )


def _key(models: str, request: ScoreRequest) -> dict[str, Any]:
    return {"reward_servers": models, "history": list(request.history), "response": request.response}


def _as_text(mark: Mark) -> str:
    tactics = [[tactic.value for tactic in names] for names in mark.sentence_tactics]
    return json.dumps([list(mark.sentences), tactics, list(mark.dimensions), mark.tagger, mark.scorer])


def _kept(text: str | None) -> Mark | None:
    """A mark that was kept; None, as if it were absent, where the entry is not one of ours."""
    try:
        sentences, tactics, dimensions, tagger, scorer = json.loads(text or "")
        named = tuple(tuple(Tactic(name) for name in names) for names in tactics)
        values = tuple(float(value) for value in dimensions)
    except (ValueError, TypeError):
        return None
    if len(values) != len(Dimension) or len(named) != len(sentences):
        return None
    return Mark(tuple(sentences), named, values, str(tagger), str(scorer))
