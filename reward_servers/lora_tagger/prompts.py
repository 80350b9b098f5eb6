"""How a tactic is asked about: one chat per sentence and tactic, and an answer that differs in a single token.

The wording belongs to the adapters, which were trained on it. It is read from their annotation files (chat format, one
file per tactic) and kept beside the adapters, so that no tagger is ever asked in other words than it learnt.

    system: who answers, about which tactic
    user:   before + the whole reply + between + the sentence + after
    answer: <score>0</score> or <score>1</score>

What all requests of one adapter share (`before`, the guideline) stands first, then what all sentences of one reply
share, then the sentence: within an adapter a prefix cache computes the guideline once, and a reply once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogue.conversation import Message
from dialogue.tactics import TACTICS, Tactic
from reward_servers.tactics.data import ANSWER, QUESTION, TagDataError, json_lines

ANSWER_BEFORE, ANSWER_AFTER = "<score>", "</score>"
VERDICTS = ("0", "1")
_WORDS = re.compile(r"[\s_-]+")


@dataclass(frozen=True, slots=True)
class TacticPrompt:
    """The fixed words around a reply and a sentence; a tagger's folder keeps one for each tactic."""

    system: str
    before: str
    between: str
    after: str

    def messages(self, context: str, sentence: str) -> list[Message]:
        """The chat that asks whether the tactic holds for `sentence`, which is part of the reply `context`."""
        question = f"{self.before}{context}{self.between}{sentence}{self.after}"
        return [{"role": "system", "content": self.system}, {"role": "user", "content": question}]


@dataclass(frozen=True, slots=True)
class Annotated:
    """A sentence, the reply it is part of, and whether the tactic holds for it."""

    context: str
    sentence: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Annotations:
    """All that an annotation file says of one tactic."""

    prompt: TacticPrompt
    sentences: tuple[Annotated, ...]

    @property
    def positives(self) -> int:
        return sum(sentence.holds for sentence in self.sentences)


def load_tactic_annotations(path: Path) -> dict[Tactic, Annotations]:
    """Chat-format annotations of one tactic or more.

    Args:
        path: a folder of `<tactic>.jsonl`, or one JSONL file whose lines have a key `tactic` besides `messages`, or
            such a file without that key which is named after its tactic.

    Raises:
        TagDataError: nothing there, a line is no such chat, or two lines of a tactic ask in different words.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    found: dict[Tactic, list[tuple[TacticPrompt, Annotated]]] = {}
    for file in files:
        for number, line in json_lines(file):
            where = f"{file}, line {number}"
            tactic = _tactic_of(line, file, where)
            asked = _parsed(line, where)
            known = found.setdefault(tactic, [])
            if known and known[0][0] != asked[0]:
                raise TagDataError(f"{where}: {tactic} is asked about in other words than on the lines before")
            known.append(asked)
    if not found:
        raise TagDataError(f"{path}: no annotations there; expected <tactic>.jsonl with lines {{'messages': [...]}}")
    return {
        tactic: Annotations(found[tactic][0][0], tuple(sentence for _, sentence in found[tactic]))
        for tactic in TACTICS
        if tactic in found
    }


def named_tactic(name: str) -> Tactic | None:
    """The tactic that a file, folder or field means, however it spells it ("Self Disclosure", "self-disclosure")."""
    spelled = _WORDS.sub("_", name.strip().lower())
    return Tactic(spelled) if spelled in tuple(Tactic) else None


def missing(tactics: Iterable[Tactic]) -> list[str]:
    """Names of the tactics that are not among these."""
    given = set(tactics)
    return [tactic.value for tactic in TACTICS if tactic not in given]


def _tactic_of(line: Mapping[str, Any], file: Path, where: str) -> Tactic:
    name = str(line.get("tactic", file.stem))
    tactic = named_tactic(name)
    if tactic is None:
        said = "the key 'tactic'" if "tactic" in line else "no key 'tactic', and the file's name"
        raise TagDataError(f"{where}: {said} is {name!r}; expected one of {', '.join(TACTICS)}")
    return tactic


def _parsed(line: Mapping[str, Any], where: str) -> tuple[TacticPrompt, Annotated]:
    try:
        system, question, answer = (line["messages"][i]["content"] for i in range(3))
        parts, score = QUESTION.search(question), ANSWER.fullmatch(answer.strip())
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise TagDataError(f"{where}: not a chat of system, user and assistant") from error
    if parts is None or score is None:
        raise TagDataError(f"{where}: no context and sentence, or the answer is not <score>0</score> or 1 in it")
    prompt = TacticPrompt(
        system=system,
        before=question[: parts.start("context")],
        between=question[parts.end("context") : parts.start("sentence")],
        after=question[parts.end("sentence") :],
    )
    return prompt, Annotated(parts["context"], parts["sentence"], score[1] == VERDICTS[1])
