"""The real three sets: every record is accounted for, and the counts are those written down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dialogue.loaders import DataError
from sft.balance import strategy_counts
from sft.examples import Loss, Split
from sft.readers.empathetic_dialogues import read_empathetic_dialogues
from sft.readers.esconv import read_esconv
from sft.readers.goemotions import read_goemotions
from sft.readers.ledger import Note, ReadReport


@pytest.mark.parametrize(
    ("read", "folder", "split", "records", "examples", "left_out"),
    [
        (read_empathetic_dialogues, "empathetic_dialogues", Split.TEST, 24_856, 2_538, 0),
        (read_esconv, "esconv", Split.TRAIN, 1_233, 987, 0),
        (read_goemotions, "goemotions", Split.TEST, 5_427, 3_821, 1_606),
    ],
)
def test_no_record_is_bad(
    real_data: Path,
    read: Callable[..., ReadReport],
    folder: str,
    split: Split,
    records: int,
    examples: int,
    left_out: int,
) -> None:
    report = read(real_data / folder, split)
    assert (report.records, len(report.examples), report.left_out) == (records, examples, left_out)
    assert report.bad == ()


def test_what_esconv_teaches(real_data: Path) -> None:
    report = read_esconv(real_data / "esconv", Split.TEST)
    assert strategy_counts(report.examples) == [270, 90, 125, 136, 205, 213, 85, 199]
    assert report.notes[Note.STRATEGY_UNLABELLED] == 41 and report.notes[Note.OPENING_DROPPED] == 632
    assert all(example.losses == {Loss.LM, Loss.STRATEGY} for example in report.examples)


def test_dialogues_that_did_not_help_are_refused(real_data: Path) -> None:
    with pytest.raises(DataError, match=r"196 of 196 records are bad \(unknown_role 196\)"):
        read_esconv(real_data / "esconv" / "FailedESConv.json")
