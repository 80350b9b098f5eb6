"""The model's turn: from gold histories to replies, plain or by verbalised sampling.

A turn ends as a reply, as unreadable (verbalised sampling only), or as failed (no answer after all retries). The last
two are counted and reported; no reply is made up for them, and the turn stays out of the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dialogue.conversation import Message
from dialogue.prompts import PromptMode, chat_messages
from dialogue.tactics import TacticCounts
from evaluation.lend_an_ear.turns import GoldTurn
from evaluation.lend_an_ear.verbalised import Candidate, instruction, parse_candidates, pick
from evaluation.readings import ATTEMPTS, ask_readable
from evaluation.replies import OnReply, Question, Reply, ReplyModel, Sampling
from evaluation.reply_cache import ReplyCache
from evaluation.systems import Place

PLAIN_TOKENS = 400  # the prompt asks for under 200


class SamplingError(RuntimeError):
    """A model gave no reply that can be used. The message shows what it answered."""


@dataclass(frozen=True, slots=True)
class Style:
    """How the model is asked: the system prompt, and how many candidates it verbalises; 0 for a plain reply."""

    mode: PromptMode
    candidates: int = 0

    @property
    def name(self) -> str:
        return self.mode.value + (f"-vs{self.candidates}" if self.candidates else "")

    @property
    def usual_tokens(self) -> int:
        return PLAIN_TOKENS * max(1, self.candidates)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A reply as the seeker sees it, what was thought before it, and the candidates it was drawn from, if any."""

    turn: GoldTurn
    system_prompt: str
    text: str
    reasoning: str
    candidates: tuple[Candidate, ...] = ()
    chosen: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """All turns asked for: the replies in order, and of the others by turn id what was answered, or why nothing was."""

    drawn: tuple[Drawn, ...]
    unreadable: Mapping[str, str]
    failures: Mapping[str, str]

    @property
    def asked(self) -> int:
        return len(self.drawn) + len(self.unreadable) + len(self.failures)

    @property
    def empty(self) -> int:
        """Replies without a word: all went into the thinking block, or the model said nothing."""
        return sum(not one.text.strip() for one in self.drawn)


def questions_of(
    turns: Sequence[GoldTurn], style: Style, gold_counts: Mapping[Place, TacticCounts]
) -> list[tuple[Message, ...]]:
    """The messages for each turn; `gold_counts` are the tactics of the people's turns, which one mode tells."""
    asked = []
    for turn in turns:
        previous = gold_counts.get(turn.previous_place) if turn.previous_place is not None else None
        system, *history = chat_messages(turn.conversation, turn.index, style.mode, previous)
        if style.candidates:
            system = {"role": "system", "content": f"{system['content']}\n\n{instruction(style.candidates)}"}
        asked.append((system, *history))
    return asked


async def draw_replies(
    model: ReplyModel,
    turns: Sequence[GoldTurn],
    messages: Sequence[tuple[Message, ...]],
    style: Style,
    sampling: Sampling,
    cache: ReplyCache,
    on_reply: OnReply | None = None,
) -> Sample:
    """A reply to each turn, where the model gives one.

    Raises:
        ReplyError: the model answered nothing at all.
        SamplingError: it answered, but no answer holds a candidate.
    """
    questions = [Question(turn.id, asked) for turn, asked in zip(turns, messages, strict=True)]

    def read(reply: Reply) -> tuple[Candidate, ...] | None:
        return parse_candidates(reply.visible) if style.candidates else ()

    attempts = ATTEMPTS if style.candidates else 1
    readings = await ask_readable(model, questions, sampling, read, cache, on_reply, attempts)
    drawn = []
    for turn, question in zip(turns, questions, strict=True):
        if turn.id in readings.read:
            candidates, reply = readings.read[turn.id]
            drawn.append(_drawn(turn, question.messages[0]["content"], candidates, reply, sampling.seed))
    if not drawn:
        first = next(iter(readings.unreadable.items()), None)
        shown = f"; that to {first[0]} begins {first[1][:120]!r}" if first else ""
        raise SamplingError(
            f"{model.identity}: no answer to any of {len(turns)} turns holds a candidate in the form asked for{shown}. "
            "Small models rarely manage verbalised sampling: leave --candidates out"
        )
    failures = {name: f"{each.message} ({each.kind.value})" for name, each in readings.failures.items()}
    return Sample(tuple(drawn), readings.unreadable, failures)


def _drawn(turn: GoldTurn, system: str, candidates: tuple[Candidate, ...], reply: Reply, seed: int) -> Drawn:
    reasoning = reply.text.removesuffix(reply.visible).strip()
    if not candidates:
        return Drawn(turn, system, reply.visible.strip(), reasoning)
    chosen = pick(candidates, seed, turn.id)
    return Drawn(turn, system, candidates[chosen].text, reasoning, candidates, chosen)


def sample_as_dict(sample: Sample) -> dict[str, Any]:
    """Counts and every turn without a reply, for the system's `run.json`."""
    listed = [len(one.candidates) for one in sample.drawn if one.candidates]
    return {
        "asked": sample.asked,
        "replies": len(sample.drawn),
        "empty": sample.empty,
        "unreadable": dict(sample.unreadable),
        "failed": dict(sample.failures),
        "candidates_per_reply": sum(listed) / len(listed) if listed else None,
    }
