"""The three system prompts of MINT (arXiv 2604.11742) in our own words, and the chat messages of one supporter turn.

`simple` says who the model is and how to answer; `tactics` adds the definitions of the ten tactics; `tactics_history`
adds which of them the previous supporter turn used, how often, and which it left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from dialogue.conversation import Conversation, Message, Role
from dialogue.tactics import (
    DEFINITIONS,
    TACTICS,
    Tactic,
    TacticCounts,
    tactics_of_counts,
)


class PromptMode(StrEnum):
    """Which system prompt opens every conversation. Members are lower-case: OmegaConf reads enums by member name."""

    simple = "simple"
    tactics = "tactics"
    tactics_history = "tactics_history"


_SIMPLE = (
    "You keep someone company who is having a hard time. Write one warm, natural reply to their last message, "
    "under 200 tokens. Plain words only: no headings, no lists, no names of techniques."
)
_TACTICS_INTRO = "There are ten ways to be of support. Choose what fits this moment, and vary it between replies:"
_FIRST_REPLY = "This is your first reply: nothing has been used yet."


def system_prompt(mode: PromptMode, previous_counts: TacticCounts | None = None) -> str:
    """The system prompt of one supporter turn.

    Args:
        mode: which of the three.
        previous_counts: (K,) tactic counts of the previous supporter turn, None where there is none yet. Only
            `tactics_history` reads it.

    Raises:
        ValueError: `previous_counts` does not have K = 10 entries.
    """
    parts = [_SIMPLE]
    if mode is not PromptMode.simple:
        parts.append(
            "\n".join(
                [
                    _TACTICS_INTRO,
                    *(f"- {_spoken(t)}: {DEFINITIONS[t]}" for t in TACTICS),
                ]
            )
        )
    if mode is PromptMode.tactics_history:
        parts.append(_FIRST_REPLY if previous_counts is None else _history(previous_counts))
    return "\n\n".join(parts)


def chat_messages(
    conversation: Conversation,
    turn_index: int,
    mode: PromptMode,
    previous_counts: TacticCounts | None = None,
) -> list[Message]:
    """The messages from which the supporter's turn at `turn_index` is to be written: system prompt, then the history.

    A conversation's first supporter turn has no previous one, whatever `previous_counts` says (zeros are usual there).

    Raises:
        ValueError: there is no supporter turn at `turn_index`, or `tactics_history` lacks the counts of the one before.
    """
    if turn_index not in conversation.supporter_turns():
        raise ValueError(
            f"conversation {conversation.id!r} has no {Role.SUPPORTER} turn at index {turn_index}; "
            f"its {Role.SUPPORTER} turns are at {list(conversation.supporter_turns())}"
        )
    if conversation.previous_supporter_turn(turn_index) is None:
        previous_counts = None
    elif previous_counts is None and mode is PromptMode.tactics_history:
        raise ValueError(
            f"conversation {conversation.id!r}, turn {turn_index}: the prompt mode {mode.value} needs the tactic "
            "counts of the previous supporter turn; tag that turn and pass `previous_counts`"
        )
    system: Message = {"role": "system", "content": system_prompt(mode, previous_counts)}
    return [system, *(turn.as_message() for turn in conversation.history(turn_index))]


def _spoken(tactic: Tactic) -> str:
    return tactic.value.replace("_", " ")


def _history(counts: Sequence[int]) -> str:
    used = tactics_of_counts(counts)
    if not used:
        return "Your previous reply used none of them."
    times = dict(zip(TACTICS, counts, strict=True))
    lines = ["Your previous reply used: " + ", ".join(f"{_spoken(t)} ({times[t]}x)" for t in used) + "."]
    unused = [_spoken(t) for t in TACTICS if t not in used]
    if unused:
        lines.append("Not used yet: " + ", ".join(unused) + ". Prefer one of these where it fits.")
    return "\n".join(lines)
