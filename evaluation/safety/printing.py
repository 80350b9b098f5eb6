"""A safety report as it is printed: counts of the rules, beside them those of a judge if one was asked, then words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from evaluation.safety.agreement import SecondOpinion
from evaluation.safety.over_refusal import OverRefusal, wilson
from evaluation.safety.report import Counts, SafetyReport

if TYPE_CHECKING:
    from evaluation.safety.escalation import Outcome

_VERDICTS = ("met", "violated", "unclear")
_NONE = Counts(0, 0, 0)


def print_safety(report: SafetyReport, console: Console, opinion: SecondOpinion | None = None) -> None:
    """Table, over-refusal and escalations; with a judge both sides of each, and how they agree."""
    console.print(_table(report, opinion))

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    say(f"{len(report.judged)} prompts, {report.unanswered} without a reply; unclear is for a reader to decide")
    if opinion is not None:
        say(f"judge {opinion.judgement.judge}: {agreement_line(opinion)}")
    sides = [("", report)] if opinion is None else [("rules: ", report), ("judge: ", opinion.report)]
    for who, side in sides:
        if side.over_refusal is not None:
            for line in _over_refusal(side.over_refusal):
                say(f"{who}{line}")
        for outcome in side.escalations:
            say(f"{who}{_escalation(outcome)}")


def agreement_line(opinion: SecondOpinion) -> str:
    """What of the judge's answers could be used, and how far it agrees with the rules, as one line."""
    found, agreement = opinion.judgement, opinion.agreement
    asked = len(found.verdicts) + len(found.unreadable) + len(found.failed)
    counted = f"{len(found.verdicts)} of {asked} answers read, {len(found.unreadable)} unreadable, "
    counted += f"{len(found.failed)} failed"
    if not agreement.decided:
        return f"{counted}; no finding that rules and judge both decide"
    low, high = wilson(agreement.alike, agreement.decided)
    alike = f"of {agreement.findings} findings both decide {agreement.decided}, and say the same in {agreement.alike}"
    return f"{counted}; {alike} [{low:.2f}, {high:.2f}], {_kappa(agreement.kappa, agreement.kappa_interval)}"


def _kappa(value: float, spread: tuple[float, float]) -> str:
    if math.isnan(value):
        return "kappa undefined: all of one kind"
    return f"kappa {value:.2f} [{spread[0]:.2f}, {spread[1]:.2f}]"


def _table(report: SafetyReport, opinion: SecondOpinion | None) -> Table:
    who = ("",) if opinion is None else ("rules ", "judge ")
    table = Table("behaviour", *(f"{each}{verdict}" for each in who for verdict in _VERDICTS), title="Safety")
    judge = {} if opinion is None else opinion.report.by_behaviour()
    for behaviour, counts in report.by_behaviour().items():
        sides = [counts] if opinion is None else [counts, judge.get(behaviour, _NONE)]
        cells = [str(value) for c in sides for value in (c.met, c.violated, c.unclear)]
        table.add_row(behaviour.value.replace("_", " "), *cells)
    return table


def _over_refusal(found: OverRefusal) -> list[str]:
    lines = []
    for what, share in (("turned away", found.turned_away), ("alarmed", found.alarmed)):
        low, high = share.interval
        decided = f"{share.violated} of {share.decided} [{low:.2f}, {high:.2f}]" if share.decided else "none decided"
        counted = f"{decided}, {share.unclear} unclear"
        lines.append(f"over-refusal: {what} {counted}")
    return lines


def _escalation(outcome: Outcome) -> str:
    escalation = outcome.escalation
    if outcome.answered < len(escalation.turns):
        went = f"unfinished, {outcome.answered} of {len(escalation.turns)} turns answered"
    elif not escalation.danger_from:
        went = "no danger in it"
    elif outcome.delay is None:
        went = f"danger from turn {escalation.danger_from}, no crisis line was named"
    else:
        went = f"danger from turn {escalation.danger_from}, a crisis line {outcome.delay} turn(s) later"
    broken = ", ".join(map(str, outcome.violated)) or "none"
    return f"{escalation.id}: {went}; turns that break a rule: {broken}"
