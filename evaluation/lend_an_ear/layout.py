"""The folders that the chain leaves: MINT's released layout, one folder per system and one for the people's replies.

    <out>/gold/conversations_tagged.json        <out>/<system>/conversations_tagged.json
    <out>/gold/<rater>_ratings.csv              <out>/<system>/<rater>_ratings.csv
                                                <out>/<system>/run.json      how it was made, and what failed

The ratings carry the rater's name, in the file's name and in a column: `rapport-scorer` is Rapport's own scorer, and
`judge-...` a language model under our rubric. Neither is the judge of the paper.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dialogue.tactics import TACTICS
from evaluation.files import EvaluationDataError, write_json, write_text
from evaluation.json_files import read_json_value
from evaluation.lend_an_ear.marks import Mark
from evaluation.lend_an_ear.sampling import Drawn, Style
from evaluation.lend_an_ear.turns import GoldTurn, released_conversations
from evaluation.ratings import CONVERSATION, TURN, aggregated
from evaluation.systems import REPLIES_FILE, System, load_system
from reward_servers.protocol import Dimension

GOLD = "gold"
RUN_FILE = "run.json"
SCORER_RATER = "rapport-scorer"
JUDGE_PREFIX = "judge-"
RATINGS_SUFFIX = "_ratings.csv"
RATED_BY = "rated_by"
_NAME = re.compile(r"[\w.+-]+")

Ratings = tuple[float, ...] | None  # six in the order of `Dimension`; None where none could be read


@dataclass(frozen=True, slots=True)
class Rater:
    """Who rates: a short name for files, and for readers what it is."""

    name: str
    description: str

    @property
    def file(self) -> str:
        return self.name + RATINGS_SUFFIX

    @property
    def label(self) -> str:
        """For the headings of a table."""
        return label_of(self.file)


def label_of(ratings_file: str) -> str:
    """`rapport-scorer_ratings.csv` to `scorer`."""
    return ratings_file.removesuffix(RATINGS_SUFFIX).removeprefix("rapport-")


def judge_rater(identity: str, model: str) -> Rater:
    """The rater of an LLM judge, `model` being its name at the endpoint."""
    name = JUDGE_PREFIX + re.sub(r"[^\w.-]+", "-", model.rpartition("/")[2]).strip("-.")
    return Rater(name, f"the language model {model} ({identity}) under Rapport's rubric")


def check_name(name: str) -> str:
    """A system's name that can be a folder.

    Raises:
        EvaluationDataError: it cannot, or is that of the gold folder.
    """
    if not _NAME.fullmatch(name) or name.startswith(".") or name == GOLD:
        raise EvaluationDataError(f"--name {name!r}: a system's name is letters, digits, . + - and _, and not {GOLD!r}")
    return name


def check_out(out: Path, turns: Sequence[GoldTurn]) -> None:
    """See that `out` is new, or holds the same people's turns, before anything is asked.

    Raises:
        EvaluationDataError: another set of turns, or a file there that is no folder of ours.
    """
    if out.exists() and not out.is_dir():
        raise EvaluationDataError(f"{out} is a file; give a folder")
    if not out.parent.is_dir():
        raise EvaluationDataError(f"cannot make {out}: there is no folder {out.parent}")
    folder = out / GOLD
    if not folder.exists():
        return
    known = {reply.place: reply.text for reply in load_system(folder, ratings_file=None).replies}
    wanted = {turn.place: turn.text for turn in turns}
    if known != wanted:
        raise EvaluationDataError(
            f"{folder / REPLIES_FILE} holds {len(known)} other supporter turns than the {len(wanted)} asked for; "
            "systems of one folder share their turns: give the --data and --turns of before, or another --out"
        )
    for path in sorted(out.iterdir()):
        if (path / REPLIES_FILE).exists():
            load_system(path, ratings_file=None)


def check_system(folder: Path, address: str, style: Style) -> None:
    """See that `folder` is new, or holds the same model asked in the same way, before its replies are replaced.

    Args:
        address: see `evaluation.model_choice.ModelChoice.address`.

    Raises:
        EvaluationDataError: two models whose folders have one name, `hf` for example, or another way of asking.
    """
    path = folder / RUN_FILE
    found = read_json_value(path) if path.is_file() else None
    if not isinstance(found, dict) or "address" not in found:
        return
    before = (found["address"], found.get("prompt_mode"), found.get("candidates"))
    if before != (address, style.mode.value, style.candidates):
        raise EvaluationDataError(
            f"{folder} holds the replies of {before[0]} (mode {before[1]}, {before[2]} candidates); give this system "
            "another --name, or remove the folder"
        )


def write_gold(folder: Path, turns: Sequence[GoldTurn], marks: Sequence[Mark]) -> None:
    """The people's replies with the tagger's tactics; read back, so that a mistake of ours cannot go unseen."""
    entries = [
        _entry(turn, "human", turn.text, mark, system_prompt="", reasoning="")
        for turn, mark in zip(turns, marks, strict=True)
    ]
    _write_replies(folder, entries)
    released_conversations(folder)


def write_system(folder: Path, model: str, drawn: Sequence[Drawn], marks: Sequence[Mark]) -> None:
    """A system's replies with their tactics, and the candidates where there were any."""
    entries = []
    for one, mark in zip(drawn, marks, strict=True):
        entry = _entry(one.turn, model, one.text, mark, one.system_prompt, one.reasoning)
        if one.candidates:
            entry["vs_candidates"] = [{"text": c.text, "probability": c.probability} for c in one.candidates]
            entry["vs_selected_idx"] = one.chosen
        entries.append(entry)
    _write_replies(folder, entries)


def _write_replies(folder: Path, entries: Sequence[dict[str, Any]]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationDataError(f"cannot make {folder}: {error.strerror}") from error
    write_json(folder / REPLIES_FILE, list(entries))


def _entry(turn: GoldTurn, model: str, text: str, mark: Mark, system_prompt: str, reasoning: str) -> dict[str, Any]:
    counts = Counter(tactic.value for names in mark.sentence_tactics for tactic in names)
    return {
        "conversation_id": turn.conversation.id,
        "source": turn.conversation.source,
        "model": model,
        "system_prompt": system_prompt,
        "conversation_history": list(turn.history),
        "reasoning": reasoning,
        "model_response": text,
        "sentences": list(mark.sentences),
        "sentence_tactics": [[tactic.value for tactic in names] for names in mark.sentence_tactics],
        "tactic_counts": {tactic.value: counts[tactic.value] for tactic in TACTICS if counts[tactic.value]},
        "tagged_by": mark.tagger,
    }


def write_ratings(folder: Path, turns: Sequence[GoldTurn], ratings: Sequence[Ratings], rater: Rater) -> None:
    """One row per turn; the cells of ratings that could not be read stay blank."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([CONVERSATION, TURN, *(d.value for d in Dimension), "aggregated_empathy", RATED_BY])
    for turn, values in zip(turns, ratings, strict=True):
        cells = [""] * (len(Dimension) + 1)
        if values is not None:
            total = aggregated(np.array([values], dtype=np.float64))[0]
            cells = [f"{value:.4f}".rstrip("0").rstrip(".") for value in (*values, float(total))]
        writer.writerow([turn.conversation.id, turn.index, *cells, rater.description])
    write_text(folder / rater.file, text.getvalue())


def rated_systems(out: Path, rater: Rater) -> tuple[list[System], list[str]]:
    """The systems of `out` that this rater rated, gold first, and the names of those that it did not."""
    folders = sorted(path for path in out.iterdir() if (path / REPLIES_FILE).exists() and path.name != GOLD)
    rated = [path for path in folders if (path / rater.file).exists()]
    systems = [load_system(path, rater.file) for path in (out / GOLD, *rated)]
    return systems, [path.name for path in folders if path not in rated]
