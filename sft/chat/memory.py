"""What a reply knows of the turns before it: nothing on turn 1, then a summary of the feelings in at most 20 tokens.

The summary comes from the emotion head where there is one (it read every turn of the seeker when it was answered),
else the model is asked for it. By default it stands instead of the history, so a prompt does not grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from dialogue.control_tokens import ControlTokens
from dialogue.conversation import Message, Role, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUMMARY_TOKENS = 20
_ASK = "Say in at most ten words what the person who wrote this feels. Only those words."
_TURNS, _CHARACTERS = 3, 400  # what the model is shown to sum up: the latest turns, and so much of each


class MemoryMode(StrEnum):
    """What of earlier turns is in the prompt, from turn 2 on."""

    SUMMARY = "summary"
    BOTH = "both"
    HISTORY = "history"
    NONE = "none"

    @property
    def sums_up(self) -> bool:
        return self in (MemoryMode.SUMMARY, MemoryMode.BOTH)

    @property
    def keeps_turns(self) -> bool:
        return self in (MemoryMode.HISTORY, MemoryMode.BOTH)


def summary_of_feelings(feelings: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> str:
    """The feelings of the seeker's earlier turns in order, the oldest left out until it is short enough.

    Repetitions in a row count once. "" where there are none.
    """
    changes = [feeling for i, feeling in enumerate(feelings) if i == 0 or feelings[i - 1] != feeling]
    while changes:
        text = f"Earlier they felt {', then '.join(changes)}."
        if count_tokens(text, tokenizer) <= SUMMARY_TOKENS:
            return text
        changes = changes[1:]
    return ""


def summary_request(history: Sequence[Turn]) -> list[Message]:
    """What the model is asked where no head reads feelings."""
    said = [turn.text[:_CHARACTERS] for turn in history if turn.role is Role.SEEKER][-_TURNS:]
    return [
        {
            "role": "system",
            "content": _ASK,
        },
        {"role": "user", "content": "\n".join(said)},
    ]


def shorten(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The first words of the first line that fit `SUMMARY_TOKENS`; fit for a system prompt, which is not made plain."""
    control = ControlTokens(tokenizer)
    words = next((line for line in text.splitlines() if line.strip()), "").split()
    while words and count_tokens(control.plain(" ".join(words)), tokenizer) > SUMMARY_TOKENS:
        words = words[:-1]
    return control.plain(" ".join(words))


def count_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def chat_prompt(
    system: Sequence[str], said: str, history: Sequence[Turn], summary: str, mode: MemoryMode
) -> list[Message]:
    """The messages for one reply.

    Args:
        system: parts of the system prompt, empty ones left out.
        said: the seeker's turn, with its style tokens.
        history: the turns before it.
        summary: of the feelings before it; "" on turn 1.
    """
    remembered = f"What you remember: {summary}" if summary and mode.sums_up else ""
    text = "\n\n".join(part for part in (*system, remembered) if part)
    opening: list[Message] = [{"role": "system", "content": text}] if text else []
    turns = [turn.as_message() for turn in history] if mode.keeps_turns else []
    return [*opening, *turns, {"role": "user", "content": said}]
