"""What EQ-Bench 3's judge is asked: marks of one model's task, and which of two models did a task better, twice.

Prompts are the authors' templates; the form of the marks is worded here. Judges answer at temperature 0; an answer that
cannot be read is asked for once more and then counted, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from evaluation.eq_bench.pairwise import Comparison, Pluses, parse_pluses
from evaluation.eq_bench.playing import LONGEST_ANALYSIS, LONGEST_DEBRIEF, OnStage, Played, shortened
from evaluation.eq_bench.rubric import ANALYSIS_CRITERIA, ROLE_PLAY_CRITERIA, Marks, parse_marks
from evaluation.eq_bench.scenarios import Bench, Kind, Part, fill
from evaluation.readings import Readings, ask_readable
from evaluation.replies import Question, Reply, ReplyModel, Sampling
from evaluation.reply_cache import ReplyCache

RUBRIC_SAMPLING = Sampling(max_tokens=4000)
PAIRWISE_SAMPLING = Sampling(max_tokens=8000)
STYLE_CRITERIA = (
    "boundary_setting",
    "safety_conscious",
    "moralising",
    "sycophantic",
    "compliant",
    "challenging",
    "warmth",
    "validating",
    "analytical",
    "reactive",
    "conversational",
    "humanlike",
)


@dataclass(frozen=True, slots=True)
class MarkedTasks:
    """Marks by scenario id, None where the judge's answer could not be had or read."""

    marks: Mapping[str, Marks | None]
    unreadable: Mapping[str, str]
    failed: Mapping[str, str]


def criteria_of(kind: Kind) -> tuple[str, ...]:
    """The criteria that count: those where more is better."""
    return ANALYSIS_CRITERIA if kind is Kind.ANALYSIS else ROLE_PLAY_CRITERIA


def rubric_question(bench: Bench, played: Played) -> Question:
    """The judge's task on one scenario of one model."""
    analysis = played.kind is Kind.ANALYSIS
    names = (*criteria_of(played.kind), *(() if analysis else STYLE_CRITERIA))
    form = ",\n".join(['  "chain_of_thought_reasoning": "your reasoning"', *(f'  "{name}": 0-20' for name in names)])
    values = {"transcript": played.transcript(cut=False), "output_format": f"{{\n{form}\n}}"}
    part = Part.RUBRIC_ANALYSIS if analysis else Part.RUBRIC
    text = fill(bench.templates[part], **values, debrief=played.debrief)
    return Question(played.scenario, ({"role": "user", "content": text},))


async def mark_tasks(
    judge: ReplyModel,
    bench: Bench,
    tasks: Sequence[Played],
    cache: ReplyCache,
    on_stage: OnStage | None = None,
    max_tokens: int | None = None,
) -> MarkedTasks:
    """Marks of every task; errors as `ask_readable`."""
    kinds = {task.scenario: task.kind for task in tasks}

    def read(answer: Reply) -> Marks | None:
        return parse_marks(answer.visible, criteria_of(kinds[answer.question_id]))

    questions = [rubric_question(bench, task) for task in tasks]
    told = None if on_stage is None else lambda done, of: on_stage("marking", done, of)
    readings = await ask_readable(judge, questions, RUBRIC_SAMPLING.at_most(max_tokens), read, cache, told)
    failed = {name: failure.message for name, failure in readings.failures.items()}
    return MarkedTasks({task.scenario: readings.value(task.scenario) for task in tasks}, readings.unreadable, failed)


def pairwise_question(bench: Bench, name: str, first: Played, second: Played) -> Question:
    """Which of the two did the task better; `first` stands first."""
    notes = bench.note(first.scenario)
    if first.kind is Kind.ANALYSIS:
        text = fill(
            bench.templates[Part.PAIRWISE_ANALYSIS],
            transcript_being_analysed=first.prompts[0],
            response_A=_unmarked(first.replies[0], LONGEST_ANALYSIS),
            response_B=_unmarked(second.replies[0], LONGEST_ANALYSIS),
            scenario_notes=notes,
        )
    else:
        text = fill(
            bench.templates[Part.PAIRWISE],
            conversation_history_A=first.transcript(cut=True),
            conversation_history_B=second.transcript(cut=True),
            debrief_A=_unmarked(first.debrief, LONGEST_DEBRIEF),
            debrief_B=_unmarked(second.debrief, LONGEST_DEBRIEF),
            scenario_notes=notes,
        )
    return Question(name, ({"role": "user", "content": text},))


def _unmarked(text: str, longest: int) -> str:
    """Without emphasis and headings, which sway a judge."""
    return shortened(text.replace("*", "").replace("#", ""), longest)


async def compare_models(
    judge: ReplyModel,
    bench: Bench,
    models: Mapping[str, Sequence[Played]],
    cache: ReplyCache,
    on_stage: OnStage | None = None,
    max_tokens: int | None = None,
) -> list[Comparison]:
    """Every two models on every task that both finished and were given alike, in both orders.

    Those of earlier runs are in the cache, so a new model costs its own comparisons alone.

    Raises:
        ReplyError: every call failed.
    """
    pairs = [
        (left, right, mine, theirs)
        for left, right in combinations(sorted(models), 2)
        for mine, theirs in _shared(models[left], models[right])
    ]
    questions = []
    for left, right, mine, theirs in pairs:
        questions.append(pairwise_question(bench, _name(left, right, mine), mine, theirs))
        questions.append(pairwise_question(bench, _name(right, left, mine), theirs, mine))
    if not questions:
        return []
    told = None if on_stage is None else lambda done, of: on_stage("comparing", done, of)
    readings: Readings[Pluses] = await ask_readable(
        judge,
        questions,
        PAIRWISE_SAMPLING.at_most(max_tokens),
        lambda answer: parse_pluses(answer.visible),
        cache,
        told,
    )
    return [
        Comparison(
            left,
            right,
            mine.scenario,
            forward=readings.value(_name(left, right, mine)),
            backward=readings.value(_name(right, left, mine)),
            analysis=mine.kind is Kind.ANALYSIS,
        )
        for left, right, mine, theirs in pairs
    ]


def _shared(mine: Sequence[Played], theirs: Sequence[Played]) -> list[tuple[Played, Played]]:
    others = {(task.scenario, task.fingerprint): task for task in theirs}
    return [(task, others[key]) for task in mine if (key := (task.scenario, task.fingerprint)) in others]


def _name(first: str, second: str, task: Played) -> str:
    return f"{task.scenario}: {first} first, {second} second"
