"""A comparison for people: one HTML file that opens from disk, and the same in Markdown.

Both open with who rated, since a scorer's 4.2 is not the paper's 4.2; then the table, every test, what failed, and the
replies side by side with the tactics of each sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.columns import COLUMNS
from evaluation.files import read_json_array, write_text
from evaluation.json_files import read_json_value
from evaluation.lend_an_ear.layout import JUDGE_PREFIX, RUN_FILE
from evaluation.lend_an_ear.run import PROTOCOL, Comparison
from evaluation.printing import HEADINGS, heading, is_significant, notes_on, rounded
from evaluation.report.palette import spoken
from evaluation.report.templates import template
from evaluation.systems import REPLIES_FILE, Place, System
from evaluation.table import TableRow

_HERE = Path(__file__).parent
SHOWN_TURNS = 20  # replies side by side; all are in the folders


@dataclass(frozen=True, slots=True)
class Cell:
    """A value with its interval; `star` where it differs from the baseline."""

    value: str
    interval: str
    star: bool


@dataclass(frozen=True, slots=True)
class Said:
    """A reply as it is read: its system's name, and each sentence with the names of its tactics."""

    system: str
    sentences: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TurnToRead:
    """One turn: what the seeker had just said, and what each system answered."""

    name: str
    seeker: str
    replies: tuple[Said, ...]


def write_summaries(comparison: Comparison, markdown: Path, page: Path) -> None:
    """Write both files; errors as `evaluation.files.write_text`."""
    facts = _facts(comparison)
    write_text(markdown, template("summary.md.j2", autoescape=False, folder=_HERE).render(facts))
    write_text(page, template("summary.html.j2", autoescape=True, folder=_HERE).render(facts))


def caution(comparison: Comparison) -> str:
    """Whose ratings these are, and what they cannot be compared with."""
    who = comparison.rater.description
    if comparison.rater.name.startswith(JUDGE_PREFIX):
        return f"Ratings: {who}. Not the judge of the paper: compare systems of this table with each other only."
    return (
        f"Ratings: {who}, a small model that imitates a judge, not the judge of the paper: compare systems of this "
        "table with each other only. A policy that was trained on this scorer has been trained on this measure."
    )


def _facts(comparison: Comparison) -> dict[str, Any]:
    table, label = comparison.table, comparison.rater.label
    return {
        "caution": caution(comparison),
        "turns": table.rows[0].turns,
        "resamples": f"{table.resamples:,}",
        "baseline": table.baseline,
        "headings": [heading(column, label, " ") for column in COLUMNS],
        "rows": [(row.system, _cells(row)) for row in table.rows],
        "tests": [test for row in table.rows for test in _tests(row)],
        "notes": [*notes_on(table), *_unrated(comparison)],
        "runs": [(system.name, _run_of(system)) for system in comparison.systems[1:]],
        "read": _to_read(comparison.systems),
        "spoken": spoken,
    }


def _cells(row: TableRow) -> list[Cell]:
    return [
        Cell(rounded(row.values[c]), " to ".join(map(rounded, row.intervals[c])), is_significant(row, c))
        for c in COLUMNS
    ]


def _tests(row: TableRow) -> list[tuple[str, ...]]:
    """System, column, difference, interval, p, p after Holm."""
    return [
        (
            row.system,
            HEADINGS[column],
            rounded(test.difference),
            " to ".join(map(rounded, test.interval)),
            f"{test.p:.4f}",
            f"{test.p_holm:.4f}",
        )
        for column, test in row.tests.items()
    ]


def _unrated(comparison: Comparison) -> list[str]:
    names = ", ".join(comparison.unrated)
    return [f"Not rated by {comparison.rater.name}, so not in this table: {names}."] if names else []


def _run_of(system: System) -> dict[str, Any]:
    """How the system was made and what failed; empty for a folder that the chain did not write."""
    path = system.folder / RUN_FILE
    found = read_json_value(path) if path.is_file() else {}
    return found if isinstance(found, dict) and found.get("protocol") == PROTOCOL else {}


def _to_read(systems: Sequence[System]) -> list[TurnToRead]:
    entries = {system.name: _entries(system) for system in systems}
    shared = [place for place in systems[0].places if all(place in known for known in entries.values())]
    return [_place(place, entries) for place in shared[:SHOWN_TURNS]]


def _entries(system: System) -> dict[Place, dict[str, Any]]:
    array = read_json_array(system.folder / REPLIES_FILE)
    return {(entry["conversation_id"].strip(), len(entry["conversation_history"])): entry for entry in array}


def _place(place: Place, entries: Mapping[str, Mapping[Place, dict[str, Any]]]) -> TurnToRead:
    found = {name: known[place] for name, known in entries.items()}
    history = next(iter(found.values()))["conversation_history"]
    seeker = str(history[-1].get("content", ""))
    replies = tuple(Said(name, _sentences(entry)) for name, entry in found.items())
    return TurnToRead(f"{place[0]}, turn {place[1]}", seeker, replies)


def _sentences(entry: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Sentences with tactics; the whole reply as one where the file does not hold its sentences."""
    tactics = [", ".join(map(spoken, names)) for names in entry["sentence_tactics"]]
    sentences = entry.get("sentences")
    if not isinstance(sentences, list) or len(sentences) != len(tactics):
        return ((str(entry["model_response"]), "; ".join(filter(None, tactics))),)
    return tuple(zip(map(str, sentences), tactics, strict=True))
