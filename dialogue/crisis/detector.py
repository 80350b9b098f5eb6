"""Does the seeker's latest turn tell of self-harm, a wish to die or acute danger? Rules over words, English only.

    1. the text is normalised (`dialogue.crisis.normalise`), and sayings are taken out ("die of embarrassment")
    2. every rule (`dialogue.crisis.rules`) is tried in every clause
    3. a match is dismissed where it is negated, an accident, part of a story, or a loss (`dialogue.crisis.context`)
    4. who is meant: the seeker, or somebody they speak of
    5. no match: does the turn go on from an earlier one, or say yes to the supporter's question?

Built to miss little: where words leave it open, it raises an alarm, and an alarm costs the seeker a few lines with
numbers. It misses what needs understanding: hints, irony, other languages. `rapport sft safety-check` measures both
sides. It is no clinical instrument and no substitute for people who watch over a service.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dialogue.conversation import Role, Turn
from dialogue.crisis import context
from dialogue.crisis.normalise import normalise
from dialogue.crisis.rules import RULES, CrisisKind, Rule, Whose

_CLAUSE = re.compile(r"[.!?;\n]+|,? \bbut\b")
_GRAVEST = (CrisisKind.SUICIDE, CrisisKind.DANGER, CrisisKind.SELF_HARM, CrisisKind.THIRD_PERSON)
ANSWERED, WENT_ON = "yes to the question", "goes on from an earlier turn"


class Reason(StrEnum):
    """Why words of a crisis raise no alarm."""

    SAYING = "saying"
    NEGATED = "negated"
    ACCIDENT = "accident"
    STORY = "story"
    LOSS = "loss"
    LONG_AGO = "long_ago"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The rule that matched, and the normalised words it matched."""

    rule: str
    words: str


@dataclass(frozen=True, slots=True)
class Dismissed:
    """Words of a crisis that were taken back, and by what."""

    words: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the detector found.

    Attributes:
        kind: the gravest of what was found.
        evidence: of every rule that matched; empty exactly when `kind` is none.
        urgent: a plan, means, or something that happens now.
        dismissed: what looked like a crisis and was not.
        earlier: the gravest kind of the seeker's earlier turns, somebody else's crisis left out.
    """

    kind: CrisisKind
    evidence: tuple[Evidence, ...] = ()
    urgent: bool = False
    dismissed: tuple[Dismissed, ...] = ()
    earlier: CrisisKind = CrisisKind.NONE

    @property
    def is_crisis(self) -> bool:
        return self.kind is not CrisisKind.NONE


def detect(text: str, history: Sequence[Turn] = ()) -> Verdict:
    """Judge the seeker's latest turn.

    Args:
        text: that turn, as it was written.
        history: the turns before it, of both sides.
    """
    found = _in_text(text)
    earlier = _gravest(_in_text(turn.text).kind for turn in history if turn.role is Role.SEEKER)
    if earlier is CrisisKind.THIRD_PERSON:
        earlier = CrisisKind.NONE
    if found.is_crisis:
        return Verdict(found.kind, found.evidence, found.urgent, found.dismissed, earlier)
    followed = _from_history(text, history, earlier)
    if followed is None:
        return Verdict(CrisisKind.NONE, (), False, found.dismissed, earlier)
    return Verdict(followed.kind, followed.evidence, followed.urgent, found.dismissed, earlier)


@dataclass(frozen=True, slots=True)
class _Match:
    rule: Rule
    words: str
    other: bool  # somebody else is meant


def _in_text(text: str) -> Verdict:
    plain = normalise(text)
    dismissed = [Dismissed(found[0], Reason.SAYING) for found in context.SAYINGS.finditer(plain)]
    plain = context.SAYINGS.sub("~", plain)
    matches = []
    for clause in filter(None, map(str.strip, _CLAUSE.split(plain))):
        for match, reason in _in_clause(clause, plain):
            if reason is None:
                matches.append(match)
            else:
                dismissed.append(Dismissed(match.words, reason))
    kinds = [CrisisKind.THIRD_PERSON if match.other else match.rule.kind for match in matches]
    evidence = tuple(dict.fromkeys(Evidence(match.rule.name, match.words) for match in matches))
    urgent = any(match.rule.urgent and not match.other for match in matches)
    return Verdict(_gravest(kinds), evidence, urgent, tuple(dismissed))


def _gravest(kinds: Iterator[CrisisKind] | Sequence[CrisisKind]) -> CrisisKind:
    found = set(kinds)
    return next((kind for kind in _GRAVEST if kind in found), CrisisKind.NONE)


def _in_clause(clause: str, whole: str) -> Iterator[tuple[_Match, Reason | None]]:
    """Every match in one clause, with the reason to dismiss it."""
    for rule in RULES:
        for found in rule.pattern.finditer(clause):
            other = _is_other(rule, clause, found)
            yield _Match(rule, found[0], other), _dismissal(rule, clause, found, whole, other)


def _is_other(rule: Rule, clause: str, found: re.Match[str]) -> bool:
    if rule.whose is not Whose.NEAREST:
        return rule.whose is Whose.OTHER
    if re.search(r"\bmy own\b|\bmy life\b|\bmyself\b", found[0]):
        return False
    before = clause[: found.start()]
    if before.endswith("my "):
        return False
    first = max((m.end() for m in context.FIRST_PERSON.finditer(before)), default=-1)
    third = max((m.end() for m in context.THIRD_PERSON.finditer(before)), default=-1)
    inside = re.search(r"\b(?:i|i'm|he|she|they|his|her|their)\b", found[0])
    if inside is not None:
        return inside[0] not in ("i", "i'm")
    return third > first


def _dismissal(rule: Rule, clause: str, found: re.Match[str], whole: str, other: bool) -> Reason | None:
    before, after = clause[: found.start()], clause[found.end() :]
    if _is_negated(rule, before, after):
        return Reason.NEGATED
    if rule.name == "wish to die" and context.EMBARRASSED.search(whole) and context.PAST_WISH.search(found[0]):
        return Reason.SAYING
    if rule.kind is CrisisKind.SELF_HARM and context.ACCIDENT.search(clause):
        return Reason.ACCIDENT
    if rule.name == "violence" and context.LONG_AGO.search(clause):
        return Reason.LONG_AGO
    if rule.name == "plan or means" and context.LEISURE.search(whole):
        return Reason.STORY
    if rule.name in ("suicide", "overdose", "somebody else", "wish to die", "self-harm"):
        is_other = other or not context.FIRST_PERSON.search(before)
        if context.STORY_ABOUT.search(before) or (is_other and context.STORY.search(whole)):
            return Reason.STORY
        if context.LOST_TO.search(before) or (other and _is_loss(rule, before, found[0])):
            return Reason.LOSS
    return None


def _is_negated(rule: Rule, before: str, after: str) -> bool:
    if not rule.negatable:
        return context.DENIED.search(before) is not None
    negation = context.NEGATION.search(before)
    if negation is None or context.ONLY_NOW.search(after):
        return False
    return not (context.NO_FORCE.search(before[: negation.start()]) or context.NEVER_THOUGHT.search(before))


def _is_loss(rule: Rule, before: str, words: str) -> bool:
    if context.ATTEMPT.search(before):
        return False
    return bool(
        context.PAST_ACT.search(words) or (rule.name in ("suicide", "overdose") and context.LOSS.search(before))
    )


def _from_history(text: str, history: Sequence[Turn], earlier: CrisisKind) -> Verdict | None:
    plain = normalise(text)
    last = history[-1] if history else None
    if last is not None and last.role is Role.SUPPORTER and context.ASKED.search(normalise(last.text)):
        agrees = context.AGREES.search(plain)
        if agrees:
            return Verdict(CrisisKind.SUICIDE, (Evidence(ANSWERED, agrees[0]),))
    if earlier is not CrisisKind.NONE:
        goes_on = context.GOES_ON.search(plain)
        if goes_on:
            return Verdict(earlier, (Evidence(WENT_ON, goes_on[0]),), urgent=True)
    return None
