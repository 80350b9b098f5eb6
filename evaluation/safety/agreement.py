"""How far a judge's verdicts and those of the rules go together, and everything that a judge adds to a report.

Pairs are findings on one behaviour of one reply, where both have one. Rules often say unclear, which is no opinion, so
the figures are over the pairs that both decide: the share on which they say the same, with Wilson's interval, and
Cohen's kappa (1960) with an interval from resampled replies. Findings of one reply depend on each other, which Wilson's
interval does not know. Agreement is not being right: both can be wrong together, and only readers can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluation.bootstrap import counts_of, draw, interval
from evaluation.ratings import Floats
from evaluation.safety.escalation import Escalation, outcomes_of
from evaluation.safety.judging import Judgement, Verdicts
from evaluation.safety.over_refusal import over_refusal_of, wilson
from evaluation.safety.prompts import Behaviour
from evaluation.safety.report import JudgedPrompt, SafetyReport
from evaluation.safety.rules import Finding, Verdict

RESAMPLES = 2000

Pair = tuple[Verdict, Verdict]  # what the rules say, what the judge says

_BOTH_DECIDE: tuple[Pair, ...] = tuple((r, j) for r in Verdict for j in Verdict if Verdict.UNCLEAR not in (r, j))


@dataclass(frozen=True, slots=True)
class Agreement:
    """Rules and judge on the same findings.

    Attributes:
        pairs: how often each pair of verdicts came up, all nine.
        kappa: of the pairs that both decide; NaN where it is undefined, as where both gave one verdict only.
    """

    pairs: Mapping[Pair, int]
    kappa: float
    kappa_interval: tuple[float, float]

    @property
    def findings(self) -> int:
        return sum(self.pairs.values())

    @property
    def decided(self) -> int:
        """Pairs in which neither says unclear."""
        return sum(self.pairs[pair] for pair in _BOTH_DECIDE)

    @property
    def alike(self) -> int:
        """Of the decided ones, those on which both say the same."""
        return sum(self.pairs[rules, judge] for rules, judge in _BOTH_DECIDE if rules is judge)

    def as_dict(self) -> dict[str, Any]:
        return {
            "findings": self.findings,
            "both_decide": self.decided,
            "alike": self.alike,
            "alike_interval": wilson(self.alike, self.decided),
            "kappa": self.kappa,
            "kappa_interval": self.kappa_interval,
            "pairs": [{"rules": r.value, "judge": j.value, "count": n} for (r, j), n in self.pairs.items()],
        }


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """A judge beside the rules: what it said, its report in the form of the rules' one, and how they agree."""

    judgement: Judgement
    report: SafetyReport
    agreement: Agreement

    def as_dict(self) -> dict[str, Any]:
        found, said = self.judgement, self.report.as_dict()
        return {
            "judge": found.judge,
            "read": len(found.verdicts),
            "unreadable": len(found.unreadable),
            "failed": len(found.failed),
            "agreement_with_rules": self.agreement.as_dict(),
            **{key: said[key] for key in ("by_behaviour", "by_category", "over_refusal", "escalations")},
            "verdicts": {name: {b.value: v.value for b, v in each.items()} for name, each in found.verdicts.items()},
            "unreadable_answers": dict(found.unreadable),
            "failed_calls": dict(found.failed),
        }


def second_opinion(report: SafetyReport, judgement: Judgement, escalations: Sequence[Escalation]) -> SecondOpinion:
    """The rules' report as the judge sees it. An escalation counts where every reply in it has a verdict."""
    seen = [replace(one, findings=_findings(judgement.verdicts.get(one.prompt.id, {}))) for one in report.judged]
    silent = {one.prompt.id for one in seen if one.reply is not None and not one.findings}
    whole = [each for each in escalations if not silent & {each.step(turn + 1) for turn in range(len(each.turns))}]
    view = SafetyReport(seen, over_refusal_of(seen), outcomes_of(whole, seen))
    return SecondOpinion(judgement, view, agreement_of(report.judged, seen))


def _findings(verdicts: Verdicts) -> Mapping[Behaviour, Finding]:
    return {behaviour: Finding(verdict) for behaviour, verdict in verdicts.items()}


def agreement_of(rules: Sequence[JudgedPrompt], judge: Sequence[JudgedPrompt], seed: int = 0) -> Agreement:
    """Over every behaviour of every reply on which both have a finding; the two lists are of the same prompts."""
    pairs = [(r, j) for r in Verdict for j in Verdict]
    tables = np.array(  # (replies, 9) how often each pair came up
        [
            [float(sum(pair == found for found in _pairs_of(mine, theirs))) for pair in pairs]
            for mine, theirs in zip(rules, judge, strict=True)
        ]
    ).reshape(-1, len(pairs))
    decided = tables[:, [pairs.index(pair) for pair in _BOTH_DECIDE]]
    decided = decided[decided.sum(axis=1) > 0]
    kappa, spread = np.nan, (np.nan, np.nan)
    if len(decided):
        kappa = float(_kappa(decided.sum(axis=0, keepdims=True))[0])
        spread = interval(_kappa(counts_of(draw(len(decided), RESAMPLES, seed)) @ decided))
    totals = tables.sum(axis=0)
    return Agreement({pair: int(count) for pair, count in zip(pairs, totals, strict=True)}, kappa, spread)


def _pairs_of(mine: JudgedPrompt, theirs: JudgedPrompt) -> list[Pair]:
    shared = [behaviour for behaviour in mine.findings if behaviour in theirs.findings]
    return [(mine.findings[behaviour].verdict, theirs.findings[behaviour].verdict) for behaviour in shared]


def _kappa(tables: Floats) -> Floats:
    """(R,) Cohen's kappa of R tables of 2 x 2, each a row of four counts in the order of `_BOTH_DECIDE`."""
    cells = tables.reshape(-1, 2, 2)
    shares = cells / cells.sum(axis=(1, 2), keepdims=True)
    observed = shares[:, 0, 0] + shares[:, 1, 1]
    expected = (shares.sum(axis=2) * shares.sum(axis=1)).sum(axis=1)
    room = 1 - expected
    return np.divide(observed - expected, room, out=np.full(room.shape, np.nan), where=room > 1e-12)
