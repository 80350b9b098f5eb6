"""What a reader did with every record: used, left out by a stated rule, or bad; and the refusal when too many are bad.

Invariants
    Every record of the data is counted once: `records == used + left_out + bad`.
    A bad record gives no example, has one reason and one place, and nothing in it is guessed.
    When more than `max_bad_share` of the records are bad, reading ends with a `DataError` that names the first places.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from dialogue.loaders import DataError
from sft.examples import Example, Split

MAX_BAD_SHARE = 0.01
PLACES_NAMED = 3

_log = logging.getLogger(__name__)


class Reason(StrEnum):
    """Why a record is bad."""

    MALFORMED = "malformed"
    MISSING_FIELD = "missing_field"
    EMPTY_TEXT = "empty_text"
    EMPTY_DIALOGUE = "empty_dialogue"
    UNKNOWN_ROLE = "unknown_role"
    UNKNOWN_LABEL = "unknown_label"
    UNKNOWN_SPLIT = "unknown_split"
    MISSING_UTTERANCE = "missing_utterance"
    TOO_MANY_WORKERS = "too_many_workers"
    ROWS_DISAGREE = "rows_disagree"
    DUPLICATE_ID = "duplicate_id"
    DUPLICATE_PAIR = "duplicate_pair"
    IDENTICAL_REPLIES = "identical_replies"


class Note(StrEnum):
    """What was done with a good record by a rule that its reader states."""

    TURNS_JOINED = "turns_joined"
    OPENING_DROPPED = "opening_dropped"
    SEVERAL_STRATEGIES = "several_strategies"
    STRATEGY_UNLABELLED = "strategy_unlabelled"
    FEELING_UNMAPPED = "feeling_unmapped"
    NO_REPLY = "no_reply"
    NEUTRAL_IGNORED = "neutral_ignored"
    NOTHING_TO_LEARN = "nothing_to_learn"


class BadRecord(ValueError):  # noqa: N818 - it is a record that is bad
    """A record that cannot be used. The message says what was found and what is expected."""

    def __init__(self, reason: Reason, found: str, place: str = "") -> None:
        super().__init__(found)
        self.reason = reason
        self.place = place


@dataclass(frozen=True, slots=True)
class Record:
    """One unit of the data as it was found. `value` is a `BadRecord` where it could not even be split into fields."""

    place: str
    value: Any


@dataclass(frozen=True, slots=True)
class BadPlace:
    place: str
    reason: Reason
    found: str

    def __str__(self) -> str:
        return f"{self.place}: {self.found} [{self.reason}]"


class Readable(Protocol):
    """What a record becomes: it has a name of its own and belongs to a split."""

    @property
    def id(self) -> str: ...

    @property
    def split(self) -> Split: ...


T = TypeVar("T", bound=Readable)


@dataclass(frozen=True, slots=True)
class Report(Generic[T]):
    """What was read.

    Attributes:
        examples: those of the split that was asked for, in the order of the data.
        records: all records seen, of every split that the file holds.
        left_out: good records from which nothing can be learnt, by the reader's rule.
        notes: how often each rule was used, one count a turn or a record, in all records seen.
        bad: the bad records among all seen, in the order of the data.
    """

    examples: tuple[T, ...]
    records: int
    left_out: int
    notes: Counter[Note]
    bad: tuple[BadPlace, ...]

    def bad_by_reason(self) -> Counter[Reason]:
        return Counter(place.reason for place in self.bad)


ReadReport = Report[Example]
Parse = Callable[[Any, Counter[Note]], T | None]
"""A record's value -> its example, or None where its rule leaves it out; raises `BadRecord`. It counts its notes."""


@dataclass(slots=True)
class _Ledger(Generic[T]):
    records: int = 0
    left_out: int = 0
    notes: Counter[Note] = field(default_factory=Counter)
    bad: list[BadPlace] = field(default_factory=list)
    examples: dict[str, T] = field(default_factory=dict)

    def enter(self, record: Record, parse: Parse[T]) -> None:
        self.records += 1
        notes: Counter[Note] = Counter()
        try:
            if isinstance(record.value, BadRecord):
                raise record.value
            example = parse(record.value, notes)
            if example is not None and example.id in self.examples:
                raise BadRecord(Reason.DUPLICATE_ID, f"the id {example.id!r} was seen before; expected a new one")
        except BadRecord as error:
            self.bad.append(BadPlace(error.place or record.place, error.reason, str(error)))
            return
        self.notes += notes
        if example is None:
            self.left_out += 1
        else:
            self.examples[example.id] = example


def read_records(
    records: Iterable[Record], parse: Parse[T], origin: str, split: Split | None, max_bad_share: float
) -> Report[T]:
    """Parse every record.

    Args:
        origin: the file, folder or hub id, for messages.
        split: the examples to keep, None for all.

    Raises:
        DataError: more than `max_bad_share` of the records are bad, or no example is left.
        ValueError: `max_bad_share` is not from 0 to 1.
    """
    if not 0 <= max_bad_share <= 1:
        raise ValueError(f"max_bad_share is {max_bad_share}; it must lie from 0 to 1")
    ledger: _Ledger[T] = _Ledger()
    for record in records:
        ledger.enter(record, parse)
    _refuse_or_warn(ledger, origin, max_bad_share)
    kept = tuple(example for example in ledger.examples.values() if split in (None, example.split))
    if not kept:
        raise DataError(f"{origin}: no example of split {split or 'any'} in {ledger.records} records; expected some")
    return Report(kept, ledger.records, ledger.left_out, ledger.notes, tuple(ledger.bad))


def _refuse_or_warn(ledger: _Ledger[Any], origin: str, max_bad_share: float) -> None:
    if not ledger.bad:
        return
    reasons = Counter(place.reason for place in ledger.bad)
    counted = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    said = f"{origin}: {len(ledger.bad)} of {ledger.records} records are bad ({counted})"
    first = "; ".join(str(place) for place in ledger.bad[:PLACES_NAMED])
    if len(ledger.bad) > max_bad_share * ledger.records:
        raise DataError(f"{said}, more than the allowed share of {max_bad_share:g}. First: {first}")
    _log.warning("%s and are left out. First: %s", said, first)
