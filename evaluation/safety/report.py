"""Verdicts of a run: one finding for each expected behaviour of each prompt, and counts by behaviour and category.

A prompt without a reply is counted as such and gets no finding. Shares are over replies; met, violated and unclear add
up to 1. No single number is made of them: a violated rule in a crisis does not average out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.files import EvaluationDataError
from evaluation.safety.prompts import Behaviour, SafetyPrompt, categories_of
from evaluation.safety.rules import Finding, Verdict, judge

if TYPE_CHECKING:
    from evaluation.safety.escalation import Outcome
    from evaluation.safety.over_refusal import OverRefusal


@dataclass(frozen=True, slots=True)
class JudgedPrompt:
    """A prompt, its reply or None, and a finding for each behaviour expected of it; none without a reply."""

    prompt: SafetyPrompt
    reply: str | None
    findings: Mapping[Behaviour, Finding]

    def has(self, verdict: Verdict) -> bool:
        return any(finding.verdict is verdict for finding in self.findings.values())


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each verdict was given."""

    met: int
    violated: int
    unclear: int

    @property
    def total(self) -> int:
        return self.met + self.violated + self.unclear

    def as_dict(self) -> dict[str, Any]:
        share = self.violated / self.total if self.total else None
        return {"met": self.met, "violated": self.violated, "unclear": self.unclear, "violated_share": share}


@dataclass(frozen=True, slots=True)
class SafetyReport:
    """All prompts of a run, in the order of their file, the turns of escalations last.

    `over_refusal` is None where no prompt is of that category.
    """

    judged: Sequence[JudgedPrompt]
    over_refusal: OverRefusal | None = None
    escalations: Sequence[Outcome] = ()

    @property
    def unanswered(self) -> int:
        return sum(one.reply is None for one in self.judged)

    def by_behaviour(self) -> dict[Behaviour, Counts]:
        """For the behaviours that the prompts expect, in the order of `Behaviour`."""
        found = {each: _counts(one.findings[each] for one in self.judged if each in one.findings) for each in Behaviour}
        return {each: counts for each, counts in found.items() if counts.total}

    def by_category(self) -> dict[str, Counts]:
        names = categories_of([one.prompt for one in self.judged])
        return {name: _counts(f for one in self.of(name) for f in one.findings.values()) for name in names}

    def of(self, category: str) -> list[JudgedPrompt]:
        return [one for one in self.judged if one.prompt.category == category]

    def as_dict(self) -> dict[str, Any]:
        return {
            "protocol": "safety rules",
            "prompts": len(self.judged),
            "unanswered": self.unanswered,
            "by_behaviour": {name.value: counts.as_dict() for name, counts in self.by_behaviour().items()},
            "by_category": {name: counts.as_dict() for name, counts in self.by_category().items()},
            "over_refusal": self.over_refusal.as_dict() if self.over_refusal else None,
            "escalations": [outcome.as_dict() for outcome in self.escalations],
            "items": [_item(one) for one in self.judged],
        }


def judge_all(prompts: Sequence[SafetyPrompt], replies: Mapping[str, str | None], where: Path | str) -> SafetyReport:
    """Judge the replies, by prompt id; a prompt that has none, or None, is unanswered.

    Raises:
        EvaluationDataError: a reply to a prompt that is not there; `where` names the replies in the message.
    """
    names = {prompt.id for prompt in prompts}
    if unknown := [name for name in replies if name not in names]:
        raise EvaluationDataError(f"{where}: a reply to {unknown[0]!r}, which is no prompt of the prompts' file")
    return SafetyReport([_judged(prompt, replies.get(prompt.id)) for prompt in prompts])


def _judged(prompt: SafetyPrompt, reply: str | None) -> JudgedPrompt:
    findings = {} if reply is None else {behaviour: judge(reply, behaviour) for behaviour in prompt.expected}
    return JudgedPrompt(prompt, reply, findings)


def _counts(findings: Iterable[Finding]) -> Counts:
    count = Counter(finding.verdict for finding in findings)
    return Counts(count[Verdict.MET], count[Verdict.VIOLATED], count[Verdict.UNCLEAR])


def _item(one: JudgedPrompt) -> dict[str, Any]:
    findings = {
        behaviour.value: {"verdict": finding.verdict.value, "evidence": finding.evidence}
        for behaviour, finding in one.findings.items()
    }
    return {
        "id": one.prompt.id,
        "category": one.prompt.category,
        "messages": list(one.prompt.messages),
        "response": one.reply,
        "findings": findings,
    }
