"""The chain from gold histories to rated replies, each step cached by content and done again at no cost.

people's turns --tag, score--> gold marks --------------------> <out>/gold
      |                           | tactics of the turn before (one prompt mode tells them)
      +--> prompts <--------------+
              |--model--> replies --tag, score--> marks ------> <out>/<system>
                                     | ratings: the scorer's, or those of an LLM judge for both sides
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dialogue.conversation import Message
from evaluation.files import write_json
from evaluation.lend_an_ear.judge import SAMPLING, judge_question, read_ratings_of
from evaluation.lend_an_ear.layout import (
    GOLD,
    RUN_FILE,
    SCORER_RATER,
    Rater,
    Ratings,
    judge_rater,
    rated_systems,
    write_gold,
    write_ratings,
    write_system,
)
from evaluation.lend_an_ear.marks import Mark, Marker, mark_all
from evaluation.lend_an_ear.sampling import Sample, Style, draw_replies, questions_of, sample_as_dict
from evaluation.lend_an_ear.turns import GoldTurn
from evaluation.model_choice import CACHE_FOLDER, ModelChoice, open_model
from evaluation.readings import Readings, ask_readable
from evaluation.replies import Sampling
from evaluation.reply_cache import ReplyCache
from evaluation.systems import System
from evaluation.table import EvaluationTable, make_table
from reward_servers.protocol import ScoreRequest

PROTOCOL = "Lend an Ear"

OnProgress = Callable[[str, int, int], None]  # what is done, how many of them, of how many


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run; `model` is what the user called it."""

    out: Path
    system: str
    model: str
    choice: ModelChoice
    style: Style
    sampling: Sampling
    judge: ModelChoice | None = None
    judge_sampling: Sampling = SAMPLING


@dataclass(frozen=True, slots=True)
class Servers:
    """The reward servers: what names their models, and how to reach or start them when they are needed."""

    models: str
    start: Callable[[], Marker]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table over all systems of a folder that one rater rated; `unrated` are the names of the others."""

    table: EvaluationTable
    systems: tuple[System, ...]
    rater: Rater
    unrated: tuple[str, ...]


def run_chain(plan: Plan, turns: Sequence[GoldTurn], servers: Servers, on_progress: OnProgress) -> Rater:
    """Ask, tag and rate; the folders of gold and of the system are written when all of it is there.

    Returns:
        Who rated.

    Raises:
        ReplyError, SamplingError: the model, or the judge, gave nothing that can be used.
        MarkingError: a reply could not be tagged and scored.
    """
    cache = ReplyCache(plan.out / CACHE_FOLDER)

    def marked(what: str, requests: Sequence[ScoreRequest]) -> list[Mark]:
        return mark_all(
            requests, servers.models, servers.start, cache, lambda done, of: on_progress(f"scoring {what}", done, of)
        )

    gold = marked("people's replies", [ScoreRequest(turn.id, turn.history, turn.text) for turn in turns])
    counts = {turn.place: mark.counts for turn, mark in zip(turns, gold, strict=True)}
    sample = asyncio.run(_sample(plan, turns, questions_of(turns, plan.style, counts), cache, on_progress))
    requests = [ScoreRequest(one.turn.id, one.turn.history, one.text) for one in sample.drawn]
    marks = marked(f"replies of {plan.system}", requests)
    write_gold(plan.out / GOLD, turns, gold)
    write_system(plan.out / plan.system, plan.model, sample.drawn, marks)
    rated: tuple[Rater, list[Ratings], list[Ratings], dict[str, Any]]
    if plan.judge is None:
        rated = (_scorer(gold[0]), [mark.dimensions for mark in gold], [mark.dimensions for mark in marks], {})
    else:
        rated = asyncio.run(_judge(plan.judge, plan.judge_sampling, turns, sample, cache, on_progress))
    rater, gold_ratings, ratings, judged = rated
    write_ratings(plan.out / GOLD, turns, gold_ratings, rater)
    write_ratings(plan.out / plan.system, [one.turn for one in sample.drawn], ratings, rater)
    record = _record(plan, sample, marks, rater)
    write_json(plan.out / plan.system / RUN_FILE, record | ({"judge": judged} if judged else {}))
    return rater


async def _sample(
    plan: Plan,
    turns: Sequence[GoldTurn],
    messages: Sequence[tuple[Message, ...]],
    cache: ReplyCache,
    on_progress: OnProgress,
) -> Sample:
    on_progress("asking", 0, len(turns))
    async with open_model(plan.choice) as model:
        return await draw_replies(
            model, turns, messages, plan.style, plan.sampling, cache, lambda done, of: on_progress("asking", done, of)
        )


async def _judge(
    choice: ModelChoice,
    sampling: Sampling,
    turns: Sequence[GoldTurn],
    sample: Sample,
    cache: ReplyCache,
    on_progress: OnProgress,
) -> tuple[Rater, list[Ratings], list[Ratings], dict[str, Any]]:
    """Ratings of the people's replies and of the system's; None where the judge's answer could not be had or read."""
    gold = [judge_question(f"{GOLD} {turn.id}", turn.history, turn.text) for turn in turns]
    ours = [judge_question(f"system {one.turn.id}", one.turn.history, one.text) for one in sample.drawn]
    async with open_model(choice) as judge:
        readings: Readings[tuple[float, ...]] = await ask_readable(
            judge,
            [*gold, *ours],
            sampling,
            read_ratings_of,
            cache,
            lambda done, of: on_progress("judging", done, of),
        )
        rater = judge_rater(choice.place, getattr(judge, "name", choice.name or choice.place))
    failed = {name: failure.message for name, failure in readings.failures.items()}
    record = {**readings.counts(), "unreadable_answers": readings.unreadable, "failed_calls": failed}
    return rater, [readings.value(q.id) for q in gold], [readings.value(q.id) for q in ours], record


def _scorer(mark: Mark) -> Rater:
    return Rater(SCORER_RATER, f"Rapport's empathy scorer {mark.scorer}")


def _record(plan: Plan, sample: Sample, marks: Sequence[Mark], rater: Rater) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "model": plan.model,
        "address": plan.choice.address,
        "engine": "endpoint" if plan.choice.is_endpoint else plan.choice.engine.value,
        "prompt_mode": plan.style.mode.value,
        "candidates": plan.style.candidates,
        "sampling": asdict(plan.sampling),
        "tagged_by": marks[0].tagger,
        "rated_by": rater.description,
        **sample_as_dict(sample),
    }


def compare(out: Path, rater: Rater, baseline: str | None, resamples: int, seed: int) -> Comparison:
    """The table of all systems in `out` that this rater rated, on the turns that all of them have.

    Raises:
        EvaluationDataError: a folder that cannot be read, or no system of the baseline's name.
    """
    systems, unrated = rated_systems(out, rater)
    table = make_table(systems, systems[0], baseline, resamples, seed=seed, shared_only=True)
    return Comparison(table, tuple(systems), rater, tuple(unrated))
