"""EQ-Bench v2 from start to end: ask, ask again what did not parse, score.

As in the authors' code, a question of which a pass did not parse is asked up to five times in all, each time with a
temperature 0.15 higher than the last; where none of the replies parses in both passes, the first that parses in one of
them counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.eq_bench.parsing import Passes, Reading, parse
from evaluation.eq_bench.questions import EqQuestion
from evaluation.eq_bench.score import EqResult, Pass, score_run
from evaluation.files import EvaluationDataError
from evaluation.replies import Question, ReplyFailure, ReplyModel, Sampling, ask_all, require_some
from evaluation.reply_cache import ReplyCache

TEMPERATURE = 0.01
TEMPERATURE_STEP = 0.15
ATTEMPTS = 5

OnAttempt = Callable[[str, int, int], None]  # which attempt, how many questions are done, of how many


@dataclass(frozen=True, slots=True)
class EqReplies:
    """The reply that counts for each question, by id; a question without one is absent. `failures` have no reply."""

    texts: Mapping[str, str]
    failures: Mapping[str, ReplyFailure]


async def collect(
    model: ReplyModel,
    questions: Sequence[EqQuestion],
    sampling: Sampling,
    attempts: int = ATTEMPTS,
    cache: ReplyCache | None = None,
    on_attempt: OnAttempt | None = None,
) -> EqReplies:
    """Ask all questions, and again those whose replies do not parse.

    Raises:
        ReplyError: the model answered none of them.
    """
    kept: dict[str, str] = {}
    failures: dict[str, ReplyFailure] = {}
    open_questions = list(questions)
    for attempt in range(attempts):
        drawn = Sampling(sampling.max_tokens, TEMPERATURE + attempt * TEMPERATURE_STEP, sampling.seed)
        told = None if on_attempt is None else partial(on_attempt, f"attempt {attempt + 1} of {attempts}")
        results = await ask_all(model, [_asked(question) for question in open_questions], drawn, cache, told)
        if attempt == 0:
            require_some(results, model.identity)
        unsettled = []
        for question, result in zip(open_questions, results, strict=True):
            if isinstance(result, ReplyFailure):  # the model's own retries are used up
                failures[question.id] = result
                continue
            _keep(kept, question, result.visible)
            if _passes(result.visible, question) < len(Pass):
                unsettled.append(question)
        open_questions = unsettled
    return EqReplies(kept, {name: failure for name, failure in failures.items() if name not in kept})


def _asked(question: EqQuestion) -> Question:
    return Question(question.id, ({"role": "user", "content": question.prompt},))


def _keep(kept: dict[str, str], question: EqQuestion, text: str) -> None:
    """The first reply that parses in both passes, else the first in one of them, else the first."""
    before = kept.get(question.id)
    if before is None or (
        _passes(text, question) == len(Pass) or _passes(before, question) == 0 < _passes(text, question)
    ):
        kept[question.id] = text


def _passes(text: str, question: EqQuestion) -> int:
    """How many of the two passes parse exactly."""
    passes = parse(text, question.reference)
    return sum(ratings is not None for ratings in (passes.first, passes.revised))


def given(replies: Mapping[str, str | None], questions: Sequence[EqQuestion], path: Path) -> EqReplies:
    """Replies from a file; a question that the file does not answer is unparseable.

    Raises:
        EvaluationDataError: the file answers a question that is not among them.
    """
    names = {question.id for question in questions}
    if unknown := [name for name in replies if name not in names]:
        raise EvaluationDataError(f"{path}: a reply to {unknown[0]!r}, which is no question of the questions' file")
    return EqReplies({name: text for name, text in replies.items() if text is not None}, {})


@dataclass(frozen=True, slots=True)
class EqReport:
    """A run's results by reading; the score is that of `Reading.EXACT`."""

    questions: Sequence[EqQuestion]
    replies: EqReplies
    answers: Sequence[Passes | None]
    results: Mapping[Reading, EqResult]

    @property
    def result(self) -> EqResult:
        return self.results[Reading.EXACT]

    @property
    def unanswered(self) -> int:
        return len(self.questions) - len(self.replies.texts)

    def as_dict(self) -> dict[str, Any]:
        return {
            "protocol": "EQ-Bench v2",
            **_summary(self.result),
            "unanswered": self.unanswered,
            "lenient_reading": _summary(self.results[Reading.LENIENT]),
            "items": [self._item(i) for i in range(len(self.questions))],
        }

    def _item(self, i: int) -> dict[str, Any]:
        name, answer = self.questions[i].id, self.answers[i]
        failure = self.replies.failures.get(name)
        return {
            "id": name,
            **{f"{each}_score": self.result.passes[each].question_scores[i] for each in Pass},
            "first_ratings": answer.first if answer else None,
            "revised_ratings": answer.revised if answer else None,
            "response": self.replies.texts.get(name),
            "failure": f"{failure.message} ({failure.kind.value})" if failure else None,
        }


def report_of(questions: Sequence[EqQuestion], replies: EqReplies, resamples: int = 10_000, seed: int = 0) -> EqReport:
    """Read the replies both ways and score them."""
    answers = {reading: _answers(questions, replies, reading) for reading in Reading}
    references = [question.reference for question in questions]
    results = {reading: score_run(answers[reading], references, resamples, seed) for reading in Reading}
    return EqReport(questions, replies, answers[Reading.EXACT], results)


def _answers(questions: Sequence[EqQuestion], replies: EqReplies, reading: Reading) -> list[Passes | None]:
    texts = [replies.texts.get(question.id) for question in questions]
    pairs = zip(texts, questions, strict=True)
    return [None if text is None else parse(text, question.reference, reading) for text, question in pairs]


def _summary(result: EqResult) -> dict[str, Any]:
    return {
        "score": result.score,
        "interval": result.interval,
        "failed": result.failed,
        "questions": result.questions,
        "parseable": result.passes[result.final].parseable,
        "final_pass": result.final.value,
        **{
            f"{each}_pass": {"score": result.passes[each].score, "parseable": result.passes[each].parseable}
            for each in Pass
        },
    }
