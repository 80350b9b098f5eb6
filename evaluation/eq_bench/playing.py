"""A model plays EQ-Bench 3's scenarios: turn by turn, all scenarios side by side, then a debrief of each but analyses.

A scenario of which a call failed is unfinished: it is counted and neither marked nor compared. Sampling is the authors'
(core/conversation.py): temperature 0.7 for scenarios, 0.5 for debriefs; their min-p of 0.1 is not sent, as not every
endpoint takes it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dialogue.conversation import Message
from evaluation.eq_bench.scenarios import Bench, Kind, Part, Scenario
from evaluation.replies import Question, ReplyFailure, ReplyModel, Sampling, ask_all, require_some
from evaluation.reply_cache import ReplyCache

TEMPERATURE = 0.7
DEBRIEF_TEMPERATURE = 0.5
LONGEST_PLAIN = 4000  # characters of a reply that a judge of two is shown
LONGEST_ANALYSIS = 6000
LONGEST_DEBRIEF = 4000
TRUNCATED = "... [truncated]"

OnStage = Callable[[str, int, int], None]  # what is done, how many, of how many

_SECTIONS: Mapping[Kind, tuple[tuple[str, int], ...]] = {
    Kind.ROLE_PLAY: (("I'm thinking & feeling", 2200), ("They're thinking & feeling", 1600), ("My response", 1600)),
    Kind.DRAFTING: (("Perspective-taking", 2200), ("Draft brainstorming", 1600), ("Draft", 1600)),
}


@dataclass(frozen=True, slots=True)
class Played:
    """A finished scenario: the user's messages, a reply to each as a reader sees it, and the debrief, empty if none."""

    scenario: str
    kind: Kind
    prompts: tuple[str, ...]
    asked: tuple[str, ...]
    replies: tuple[str, ...]
    debrief: str

    @property
    def fingerprint(self) -> str:
        """Equal where two models were given the same task."""
        return hashlib.sha256("\0".join(self.asked).encode("utf-8", errors="replace")).hexdigest()[:16]

    def transcript(self, cut: bool) -> str:
        """All turns for a judge; `cut` brings replies to the authors' lengths, so that no model wins by length."""
        parts = []
        for asked, reply in zip(self.asked, self.replies, strict=True):
            parts += [f"User:\n{asked}", f"Assistant:\n{for_judge(reply, self.kind, cut)}"]
        return "\n\n---\n\n".join(parts)


@dataclass(frozen=True, slots=True)
class Playthrough:
    """All scenarios of one model; of an unfinished one the reason."""

    played: tuple[Played, ...]
    unfinished: Mapping[str, str]


async def play(
    model: ReplyModel, bench: Bench, sampling: Sampling, cache: ReplyCache, on_stage: OnStage | None = None
) -> Playthrough:
    """Play all scenarios. `sampling` gives length and seed; its temperature is not read.

    Raises:
        ReplyError: the model answered nothing at all.
    """
    talks: dict[str, list[Message]] = {scenario.id: [] for scenario in bench.scenarios}
    unfinished: dict[str, str] = {}
    drawn = Sampling(sampling.max_tokens, TEMPERATURE, sampling.seed)
    for turn in range(max(len(scenario.prompts) for scenario in bench.scenarios)):
        due = [s for s in bench.scenarios if len(s.prompts) > turn and s.id not in unfinished]
        asked = {scenario.id: bench.asked(scenario)[turn] for scenario in due}
        await _turn(model, f"turn {turn + 1}", asked, talks, unfinished, drawn, cache, on_stage)
    due = [s for s in bench.scenarios if s.kind is not Kind.ANALYSIS and s.id not in unfinished]
    last = Sampling(sampling.max_tokens, DEBRIEF_TEMPERATURE, sampling.seed)
    asked = {scenario.id: bench.templates[Part.DEBRIEF] for scenario in due}
    await _turn(model, "debriefs", asked, talks, unfinished, last, cache, on_stage)
    finished = [scenario for scenario in bench.scenarios if scenario.id not in unfinished]
    return Playthrough(tuple(_played(scenario, talks[scenario.id]) for scenario in finished), unfinished)


async def _turn(
    model: ReplyModel,
    what: str,
    asked: Mapping[str, str],
    talks: dict[str, list[Message]],
    unfinished: dict[str, str],
    sampling: Sampling,
    cache: ReplyCache,
    on_stage: OnStage | None,
) -> None:
    """One message of the user and its reply in each talk; a talk whose call failed becomes unfinished."""
    questions = []
    for name, text in asked.items():
        talks[name].append({"role": "user", "content": text})
        questions.append(Question(name, tuple(talks[name])))
    samplings = [sampling.for_question(f"{question.id} {what}") for question in questions]
    told = None if on_stage is None else lambda done, of: on_stage(what, done, of)
    results = await ask_all(model, questions, samplings, cache, told)
    if not any(message["role"] == "assistant" for talk in talks.values() for message in talk):
        require_some(results, model.identity)  # of the first turn: later ones may be few, and fail together
    for result in results:
        if isinstance(result, ReplyFailure):
            unfinished[result.question_id] = f"{what}: {result.message} ({result.kind.value})"
        else:
            talks[result.question_id].append({"role": "assistant", "content": result.visible})


def _played(scenario: Scenario, talk: Sequence[Message]) -> Played:
    texts = [message["content"] for message in talk]
    turns = len(scenario.prompts)
    debrief = texts[2 * turns + 1].strip() if len(texts) > 2 * turns else ""
    asked, replies = texts[: 2 * turns : 2], texts[1 : 2 * turns : 2]
    return Played(scenario.id, scenario.kind, scenario.prompts, tuple(asked), tuple(replies), debrief)


def for_judge(reply: str, kind: Kind, cut: bool) -> str:
    """A reply as a judge is shown it: the sections asked for, or the whole where it has none of them."""
    sections = {title: _section(reply, title, kind) for title, _ in _SECTIONS.get(kind, ())}
    if not any(sections.values()):
        return shortened(reply, LONGEST_ANALYSIS if kind is Kind.ANALYSIS else LONGEST_PLAIN) if cut else reply
    limits = dict(_SECTIONS[kind])
    texts = {title: shortened(text, limits[title]) if cut else text for title, text in sections.items()}
    return "\n\n".join(f"# {title}\n{text}" for title, text in texts.items())


def _section(reply: str, title: str, kind: Kind) -> str:
    """From its heading to the next; the last one to a line of dashes, as the format asked for ends with one."""
    titles = "|".join(_pattern(other) for other, _ in _SECTIONS[kind])
    start = re.search(rf"^\s*#+[ *]*{_pattern(title)}[ *:]*$", reply, re.IGNORECASE | re.MULTILINE)
    if start is None:
        return ""
    rest = reply[start.end() :]
    end = re.search(rf"^\s*#+[ *]*(?:{titles})[ *:]*$|^\s*-{{2,}}\s*$", rest, re.IGNORECASE | re.MULTILINE)
    return rest[: end.start() if end else len(rest)].strip()


def _pattern(title: str) -> str:
    return re.escape(title).replace("'", "['’]").replace(r"\-", "[- ]")


def shortened(text: str, longest: int) -> str:
    """At most `longest` characters, and a mark where some are missing."""
    return text if len(text) <= longest else text[:longest] + TRUNCATED


def played_as_dict(played: Played) -> dict[str, Any]:
    return {
        "scenario": played.scenario,
        "kind": played.kind.value,
        "prompts": list(played.prompts),
        "asked": list(played.asked),
        "replies": list(played.replies),
        "debrief": played.debrief,
    }
