"""Questions whose answers must have a form: asked again a little warmer where they have not, and never guessed.

asked -> answered -> read                       it counts
                  -> unreadable -> asked again, at most `attempts` times in all -> unreadable: counted
      -> failed (the model's own retries are used up)                           -> failed: counted
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from evaluation.replies import OnReply, Question, Reply, ReplyFailure, ReplyModel, Sampling, ask_all, require_some
from evaluation.reply_cache import ReplyCache

T = TypeVar("T")

ATTEMPTS = 2
WARMER = 0.15  # added to the temperature at each further attempt: the same draw would give the same answer


@dataclass(frozen=True, slots=True)
class Readings(Generic[T]):
    """By question id; every question is in exactly one of the three. `unreadable` holds the last answer."""

    read: dict[str, tuple[T, Reply]]
    unreadable: dict[str, str]
    failures: dict[str, ReplyFailure]

    def value(self, question: str) -> T | None:
        found = self.read.get(question)
        return None if found is None else found[0]

    def counts(self) -> dict[str, int]:
        return {"read": len(self.read), "unreadable": len(self.unreadable), "failed": len(self.failures)}


async def ask_readable(
    model: ReplyModel,
    questions: Sequence[Question],
    sampling: Sampling,
    read: Callable[[Reply], T | None],
    cache: ReplyCache | None = None,
    on_reply: OnReply | None = None,
    attempts: int = ATTEMPTS,
    own_seeds: bool = True,
) -> Readings[T]:
    """Ask all questions, each with a seed of its own, and again those whose answers `read` cannot read.

    Args:
        own_seeds: False gives all of them the seed of `sampling`: an answer then depends on what is asked and not on
            the question's id, so equal questions find each other's answers in the cache.

    Raises:
        ReplyError: every call failed.
    """
    found: Readings[T] = Readings({}, {}, {})
    open_questions = list(questions)
    for attempt in range(attempts):
        warmer = replace(sampling, temperature=sampling.temperature + attempt * WARMER, seed=sampling.seed + attempt)
        drawn = [warmer.for_question(question.id) if own_seeds else warmer for question in open_questions]
        results = await ask_all(model, open_questions, drawn, cache, on_reply)
        if attempt == 0:
            require_some(results, model.identity)
        for result in results:
            found.unreadable.pop(result.question_id, None)
            if isinstance(result, ReplyFailure):
                found.failures[result.question_id] = result
            elif (value := read(result)) is not None:
                found.read[result.question_id] = (value, result)
            else:
                found.unreadable[result.question_id] = result.text
        open_questions = [question for question in open_questions if question.id in found.unreadable]
        if not open_questions:
            break
    return found
