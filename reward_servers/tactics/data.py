"""Sentences with known tactics, and which of them may be trained on.

Sources, each a `TaggedReply` per reply:
    SYSTEM   replies of the eleven 1.7B systems, tagged by MINT's own taggers (`outputs/<system>/`)
    LISTENER the human replies of the Lend-an-Ear conversations (`outputs/gold/`; the same 574 labels as
             `lend_an_ear/tactic_results/sentence_level_tactics.csv`, so that file is not read)
    HUMAN    286 sentences of 25 replies labelled by people (`tagger_annotations/val/`)
    WEAK     replies of the 322 training conversations, and some written for this, labelled by a language model
             (`weak_labels.jsonl` here)
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dialogue.sentences import split_sentences
from dialogue.tactics import TACTICS, Tactic
from reward_servers.tactics.windows import readable

Labels = NDArray[np.float32]

HELD_OUT_FILE = Path(__file__).parent.parent / "held_out_conversations.txt"
WEAK_LABELS_FILE = Path(__file__).parent / "weak_labels.jsonl"
GOLD_FOLDER = "gold"

QUESTION = re.compile(
    r"Context \(Full Empathic Response\):\n(?P<context>.*)\n\n"
    r"- Sentence to Evaluate:\n(?P<sentence>.*)\n\n### Response",
    re.DOTALL,
)
ANSWER = re.compile(r"<score>\s*([01])\s*</score>")


class TagSource(StrEnum):
    """Who labelled a reply, and whose reply it is."""

    SYSTEM = "system"
    LISTENER = "listener"
    HUMAN = "human"
    WEAK = "weak"


class TagDataError(ValueError):
    """A file of labels does not say what it should. The message names the file and the place in it."""


@dataclass(frozen=True, eq=False, slots=True)
class TaggedReply:
    """S sentences of one reply and their (S, K) labels, 0 or 1 each.

    `group` is what must not be split between training and test: the conversation, or the reply's own text where the
    conversation is not known. `use` marks the sentences whose labels may be trained on; the others are context.
    """

    source: TagSource
    group: str
    sentences: tuple[str, ...]
    labels: Labels
    use: NDArray[np.bool_]


def label_matrix(sentence_tactics: Sequence[Iterable[str]]) -> Labels:
    """(S, K) zeros and ones. Raises ValueError on a name that is no tactic."""
    labels = np.zeros((len(sentence_tactics), len(TACTICS)), dtype=np.float32)
    for row, tactics in enumerate(sentence_tactics):
        for tactic in tactics:
            labels[row, TACTICS.index(Tactic(tactic))] = 1.0
    return labels


def held_out_conversations(path: Path = HELD_OUT_FILE) -> frozenset[str]:
    """Ids of the Lend-an-Ear conversations no reward model is ever trained on."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def load_outputs(folder: Path) -> list[TaggedReply]:
    """Replies of every system in `folder` (`<system>/conversations_tagged.json`), the human gold among them.

    Raises:
        TagDataError: no such file at all, or a reply whose tags do not match its sentences.
    """
    paths = sorted(folder.glob("*/conversations_tagged.json"))
    if not paths:
        raise TagDataError(f"{folder} holds no <system>/conversations_tagged.json")
    return [reply for path in paths for reply in _system_replies(path)]


def _system_replies(path: Path) -> Iterator[TaggedReply]:
    source = TagSource.LISTENER if path.parent.name == GOLD_FOLDER else TagSource.SYSTEM
    for number, turn in enumerate(_json_array(path)):
        try:
            sentences = tuple(split_sentences(turn["model_response"]))
            labels = label_matrix(turn["sentence_tactics"])
        except (KeyError, ValueError, TypeError) as error:
            raise TagDataError(f"{path}, turn {number}: {error!r}") from error
        if len(labels) != len(sentences):
            raise TagDataError(f"{path}, turn {number}: {len(sentences)} sentences, but tags of {len(labels)}")
        if sentences:
            yield _reply(source, str(turn["conversation_id"]), sentences, labels)


def load_annotations(folder: Path) -> list[TaggedReply]:
    """The human labels: `folder/<tactic>.jsonl`, one chat per sentence with the reply and the sentence in it.

    Raises:
        TagDataError: a tactic's file is missing, a line has no sentence or no 0/1 answer, or the files differ in
            their sentences.
    """
    answers = {tactic: dict(_annotated_sentences(folder / f"{tactic}.jsonl")) for tactic in TACTICS}
    first = answers[TACTICS[0]]
    for tactic, sentences in answers.items():
        if sentences.keys() != first.keys():
            raise TagDataError(f"{folder}: {tactic}.jsonl and {TACTICS[0]}.jsonl do not hold the same sentences")
    by_reply: dict[str, list[str]] = defaultdict(list)
    for context, sentence in first:
        by_reply[context].append(sentence)
    return [
        _reply(
            TagSource.HUMAN,
            context,
            tuple(sentences),
            np.array([[answers[t][context, s] for t in TACTICS] for s in sentences], dtype=np.float32),
        )
        for context, sentences in by_reply.items()
    ]


def _annotated_sentences(path: Path) -> Iterator[tuple[tuple[str, str], float]]:
    for number, message in json_lines(path):
        try:
            question, answer = (message["messages"][i]["content"] for i in (1, 2))
        except (KeyError, IndexError, TypeError) as error:
            raise TagDataError(f"{path}, line {number}: not a chat of system, user and assistant") from error
        parts, score = QUESTION.search(question), ANSWER.search(answer)
        if parts is None or score is None:
            raise TagDataError(f"{path}, line {number}: no context and sentence, or no <score>0</score> or 1 in it")
        yield (parts["context"], parts["sentence"].strip()), float(score[1])


def load_weak_labels(conversations: Path, labels: Path = WEAK_LABELS_FILE) -> list[TaggedReply]:
    """Labels made by a language model that followed MINT's guideline.

    A line has either sentences written for this purpose, or the place of a supporter turn in the 322 conversations,
    whose text the file does not repeat.

    Raises:
        TagDataError: `conversations` is missing or no such file, a place does not exist in it, or there is another
            number of sentences there.
    """
    try:
        turns = {c["conversation_id"]: c["conversation"] for c in _json_array(conversations)}
    except (KeyError, TypeError) as error:
        raise TagDataError(f"{conversations}: not MINT's conversations ({error!r})") from error
    replies = []
    for number, entry in json_lines(labels):
        where = f"{labels}, line {number}"
        try:
            sentences = _labelled_sentences(entry, turns)
            matrix = label_matrix(entry["sentence_tactics"])
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise TagDataError(f"{where}: {error!r}") from error
        if len(sentences) != len(matrix):
            raise TagDataError(f"{where}: {len(matrix)} labels for {len(sentences)} sentences")
        replies.append(_reply(TagSource.WEAK, entry.get("conversation_id", where), sentences, matrix))
    return replies


def _labelled_sentences(entry: Mapping[str, Any], turns: Mapping[str, Any]) -> tuple[str, ...]:
    if "sentences" in entry:
        return tuple(entry["sentences"])
    return tuple(split_sentences(turns[entry["conversation_id"]][entry["turn"]]["content"]))


def without_sentences_of(replies: Sequence[TaggedReply], held_out: Sequence[TaggedReply]) -> list[TaggedReply]:
    """`replies` less those of a held-out group; sentences that also occur in a held-out reply are not to be used."""
    groups = {reply.group for reply in held_out}
    seen = {normalised(s) for reply in held_out for s in reply.sentences}
    return [
        TaggedReply(
            r.source, r.group, r.sentences, r.labels, r.use & np.array([normalised(s) not in seen for s in r.sentences])
        )
        for r in replies
        if r.group not in groups
    ]


def normalised(sentence: str) -> str:
    """What two sentences share when they differ only in case, punctuation and white space."""
    return " ".join(re.findall(r"\w+", readable(sentence).lower()))


def _reply(source: TagSource, group: str, sentences: tuple[str, ...], labels: Labels) -> TaggedReply:
    return TaggedReply(source, group, sentences, labels, np.ones(len(sentences), dtype=bool))


def _json_array(path: Path) -> list[Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TagDataError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise TagDataError(f"{path}: not JSON ({error}); is the file cut off?") from error
    if not isinstance(value, list):
        raise TagDataError(f"{path}: a JSON array expected, {type(value).__name__} found")
    return value


def json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers from 1 and parsed objects, blank lines left out.

    Raises:
        TagDataError: a line is no JSON object, or the file is missing or cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other line separators
    except FileNotFoundError as error:
        raise TagDataError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TagDataError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise TagDataError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise TagDataError(f"{path}, line {number}: a JSON object expected, {type(value).__name__} found")
        yield number, value
