"""Systems on the Lend-an-Ear test set in the layout that MINT released: one folder per system, with two files.

    <system>/conversations_tagged.json   an array, one entry per supporter turn:
                                         {"conversation_id": str, "conversation_history": [{"role", "content"}, ...],
                                          "model_response": str, "sentence_tactics": [[tactic, ...], ...], ...}
    <system>/gpt-oss-120b_ratings.csv    one row per turn: conversation_id, turn_index, six dimensions

The turn's index is the number of messages before it, so 1, 3, 5, ... Tactic counts are taken from `sentence_tactics`,
the aggregate from the six dimensions; what the files say of `tactic_counts` and `aggregated_empathy` is not read.

Histories are the people's in every system, so turns pair across systems; a system that led a talk of its own is refused
where it would be set against people's turns. `align` brings the turns into one order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dialogue.tactics import TACTICS, Tactic, TacticCounts, count_tactics
from evaluation.files import EvaluationDataError, read_json_entries, shown
from evaluation.ratings import Floats, read_turn_ratings
from reward_servers.protocol import Dimension

REPLIES_FILE = "conversations_tagged.json"
RATINGS_FILE = "gpt-oss-120b_ratings.csv"

Flags = NDArray[np.bool_]
Place = tuple[str, int]  # conversation, turn index
OnSystem = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Reply:
    """One supporter turn: index `turn` in its conversation, K = 10 tactic counts, a digest of what was said before."""

    conversation: str
    turn: int
    text: str
    counts: TacticCounts
    history: str

    @property
    def place(self) -> Place:
        return self.conversation, self.turn

    @property
    def previous_place(self) -> Place | None:
        """Where the supporter spoke before, or None at the conversation's first supporter turn."""
        return (self.conversation, self.turn - 2) if self.turn > 1 else None

    @property
    def number(self) -> int:
        """1 for the first supporter turn of the conversation, 2 for the second, ..."""
        return (self.turn + 1) // 2


@dataclass(frozen=True, eq=False, slots=True)
class System:
    """N replies of one system and their (N, 6) ratings in the order of `Dimension`, NaN where blank."""

    folder: Path
    replies: tuple[Reply, ...]
    ratings: Floats

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(reply.place for reply in self.replies)

    def blank_ratings(self) -> int:
        return int(np.isnan(self.ratings).sum())


def load_systems(
    folder: Path, gold: Path | None = None, ratings_file: str | None = RATINGS_FILE, on_system: OnSystem | None = None
) -> list[System]:
    """Every system of `folder`, by name, and `gold`, if given, before them. Folders without these files are skipped.

    Args:
        ratings_file: name of the ratings in each folder; None if they are not needed, all are then blank.
        on_system: told the name of each system before it is read.

    Raises:
        EvaluationDataError: no system there, two of one name, or a fault that `load_system` finds.
    """
    names = [REPLIES_FILE] if ratings_file is None else [REPLIES_FILE, ratings_file]
    folders = [path for path in _subfolders(folder) if any((path / name).exists() for name in names)]
    if not folders and (gold is None or (gold / REPLIES_FILE).exists()):  # else what is said of gold helps more
        raise EvaluationDataError(f"{folder} holds no <system>/{REPLIES_FILE}; give the folder of the systems' folders")
    if gold is not None:
        folders = [gold, *(path for path in folders if path.resolve() != gold.resolve())]
        if same := [path for path in folders[1:] if path.name == gold.name]:
            raise EvaluationDataError(f"{same[0]} has the name of the gold folder {gold}; rename one of them")
    systems = []
    for path in folders:
        if on_system is not None:
            on_system(path.name)
        systems.append(load_system(path, ratings_file))
    return systems


def ratings_file_of(folder: Path) -> str:
    """Name of the ratings in a system's folder: those of the paper's judge, or the only ones that there are.

    Raises:
        EvaluationDataError: there are several others, and nothing says which are meant.
    """
    names = sorted(path.name for path in folder.glob("*_ratings.csv"))
    if RATINGS_FILE in names or not names:
        return RATINGS_FILE
    if len(names) > 1:
        raise EvaluationDataError(f"{folder} holds the ratings {', '.join(names)}; say which with --ratings")
    return names[0]


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise EvaluationDataError(f"{folder} is not a folder; give the folder that holds one folder per system")
    return sorted(path for path in folder.iterdir() if path.is_dir())


def load_system(folder: Path, ratings_file: str | None = RATINGS_FILE) -> System:
    """One system's replies, in the order of its file, with their ratings, or with blanks where `ratings_file` is None.

    Raises:
        EvaluationDataError: a file is missing, not UTF-8, cut off or not of the form above, a turn is there twice, or
            the two files do not hold the same turns.
    """
    path = folder / REPLIES_FILE
    replies: dict[Place, Reply] = {}
    for where, entry in read_json_entries(path):
        reply = _reply(entry, where)
        if reply.place in replies:
            raise EvaluationDataError(f"{where}: {_named(reply.place)} is there already")
        replies[reply.place] = reply
    if not replies:
        raise EvaluationDataError(f"{path}: the array is empty; expected one entry per supporter turn")
    if ratings_file is None:
        return System(folder, tuple(replies.values()), np.full((len(replies), len(Dimension)), np.nan))
    return System(folder, tuple(replies.values()), _ratings(folder / ratings_file, replies))


def _ratings(ratings_path: Path, replies: Mapping[Place, Reply]) -> Floats:
    """(N, 6) in the order of `replies`, each of which must have one row, and each row a reply."""
    ratings = read_turn_ratings(ratings_path)
    if unrated := [place for place in replies if place not in ratings]:
        found = f"{len(ratings)} ratings for {len(replies)} turns of {REPLIES_FILE}"
        raise EvaluationDataError(f"{ratings_path}: {found}: none for {_named(unrated[0])}")
    if unknown := [rating for place, rating in ratings.items() if place not in replies]:
        where = f"{ratings_path}, line {unknown[0].line}"
        place = (unknown[0].conversation, unknown[0].turn)
        raise EvaluationDataError(f"{where}: a rating of {_named(place)}, which {REPLIES_FILE} does not hold")
    return np.array([ratings[place].values for place in replies])


def align(systems: Sequence[System], gold: System, shared_only: bool = False) -> list[System]:
    """The systems with their turns in the order of `gold`.

    Args:
        shared_only: keep the turns that all of them have; otherwise a system with other turns than gold is an error.

    Raises:
        EvaluationDataError: turns differ, none is shared, or a reply is to another history than gold's.
    """
    for system in systems:
        check_histories(system, gold)
    shared = set(gold.places).intersection(*(system.places for system in systems))
    if not shared:
        raise EvaluationDataError("the systems have no turn in common with gold")
    if not shared_only:
        for system in systems:
            _check_same_turns(system, gold)
    order = [place for place in gold.places if place in shared]
    return [_reordered(system, order) for system in systems]


def previous_replies(replies: Sequence[Reply], source: System) -> list[Reply | None]:
    """For each reply the supporter's turn before it in `source` (gold, or the system itself); None at a first turn.

    Raises:
        EvaluationDataError: `source` lacks such a turn.
    """
    known = {reply.place: reply for reply in source.replies}
    previous = []
    for reply in replies:
        place = reply.previous_place
        if place is not None and place not in known:
            raise EvaluationDataError(
                f"{source.folder / REPLIES_FILE}: {_named(place)} is missing, but a later one is not"
            )
        previous.append(known[place] if place is not None else None)
    return previous


def check_histories(system: System, gold: System) -> None:
    """See that the system answers what people said, so that gold's previous turn is the one before its reply.

    Raises:
        EvaluationDataError: a reply whose history is not that of gold's turn there.
    """
    known = {reply.place: reply.history for reply in gold.replies}
    for reply in system.replies:
        if known.get(reply.place, reply.history) != reply.history:
            raise EvaluationDataError(
                f"{system.folder / REPLIES_FILE}: {_named(reply.place)}: another history than in {gold.folder}; talks "
                "that a system led by itself are for `rapport evaluate diversity --previous own`"
            )


def _check_same_turns(system: System, gold: System) -> None:
    own, wanted = set(system.places), set(gold.places)
    if own == wanted:
        return
    missing = [place for place in gold.places if place not in own]
    extra = [place for place in system.places if place not in wanted]
    fault = f"{_named(missing[0])} is missing" if missing else f"{_named(extra[0])} is not in gold"
    raise EvaluationDataError(
        f"{system.folder / REPLIES_FILE}: {len(own)} turns where gold has {len(wanted)}: {fault}; "
        "--shared-turns compares on the turns that all have"
    )


def _reordered(system: System, order: Sequence[Place]) -> System:
    rows = {place: row for row, place in enumerate(system.places)}
    chosen = [rows[place] for place in order]
    return System(system.folder, tuple(system.replies[row] for row in chosen), system.ratings[chosen])


def _reply(entry: Mapping[str, Any], where: str) -> Reply:
    conversation = _field(entry, "conversation_id", str, where)
    if not conversation.strip():
        raise EvaluationDataError(f"{where}: 'conversation_id' is empty")
    where = f"{where}, conversation {conversation!r}"
    history = _field(entry, "conversation_history", list, where)
    _check_history(history, where)
    text = _field(entry, "model_response", str, where)
    sentence_tactics = [
        _tactics(names, f"{where}, sentence {number}")
        for number, names in enumerate(_field(entry, "sentence_tactics", list, where))
    ]
    return Reply(conversation.strip(), len(history), text, count_tactics(sentence_tactics), _digest(history))


def _digest(history: Sequence[Mapping[str, Any]]) -> str:
    said = "\0".join(str(message.get("content") or "").strip() for message in history)
    return hashlib.sha256(said.encode("utf-8", errors="replace")).hexdigest()


def _field(entry: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in entry:
        raise EvaluationDataError(f"{where}: missing {key!r}; the keys are {', '.join(map(repr, entry)) or 'none'}")
    if not isinstance(entry[key], kind):
        name = "a text" if kind is str else "a list"
        raise EvaluationDataError(f"{where}: {key!r} is {shown(entry[key])}; expected {name}")
    return entry[key]


def _check_history(history: Sequence[object], where: str) -> None:
    """user, assistant, ..., user: else the length of the history is not the index of a supporter turn."""
    for number, message in enumerate(history):
        due = "user" if number % 2 == 0 else "assistant"
        if not isinstance(message, dict) or message.get("role") != due:
            raise EvaluationDataError(
                f"{where}, message {number}: found {shown(message)}; expected one with role {due!r}"
            )
    if len(history) % 2 == 0:
        raise EvaluationDataError(f"{where}: a history of {len(history)} messages; expected the last one from the user")


def _tactics(names: object, where: str) -> list[Tactic]:
    if not isinstance(names, list):
        raise EvaluationDataError(f"{where}: tactics are {shown(names)}; expected a list of names")
    for name in names:
        if name not in TACTICS:
            raise EvaluationDataError(f"{where}: {shown(name)} is no tactic; expected some of {', '.join(TACTICS)}")
    return [Tactic(name) for name in names]


def _named(place: Place) -> str:
    return f"conversation {place[0]!r}, turn {place[1]}"
