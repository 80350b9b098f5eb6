"""Orders and quick fixes, which a reply to somebody in danger must not open with, and a decode that avoids them.

    ANYWHERE   "you should", "you must", ...: wherever they stand
    OPENING    "just", "try", "stop", ...: only as the first word of a sentence ("I'm just here for you" is no order)

The penalty is transformers' `SequenceBiasLogitsProcessor`: the logit of the last token of a phrase is lowered when the
tokens before it have just been written. It is finite, so a model that has nothing else to say still says something.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANYWHERE = (
    "you should",
    "you must",
    "you need to",
    "you have to",
    "you've got to",
    "you ought to",
    "you'd better",
    "you can't just",
    "all you have to do",
    "why don't you",
    "have you tried",
)
OPENING = (
    "just",
    "try",
    "stop",
    "don't",
    "do not",
    "never",
    "always",
    "calm down",
    "cheer up",
    "get over",
    "make sure",
    "remember to",
    "be positive",
    "think positive",
    "focus on",
    "consider",
    "snap out",
    "move on",
    "go",
)
PENALTY = 10.0  # subtracted from a logit: e^-10 of the odds

_BEFORE = (". ", "! ", "? ", "\n")
_PATTERN = re.compile(rf"\b(?:{'|'.join(ANYWHERE)})\b|(?:^|[.!?\n])[\s\"'(*-]*(?:{'|'.join(OPENING)})\b", re.IGNORECASE)


def directives_in(text: str) -> list[str]:
    """The directive openings in a text, in order."""
    return [found[0].strip(" .!?\n\t\"'(*-") for found in _PATTERN.finditer(text.replace("’", "'"))]


def directive_sequences(tokenizer: PreTrainedTokenizerBase, prompt_end: int | None) -> list[tuple[int, ...]]:
    """Token ids of every phrase in every spelling, without repetitions.

    Args:
        prompt_end: the last token of the prompt, after which a reply opens.
    """

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    found: list[tuple[int, ...]] = []
    for phrase in _spellings(ANYWHERE):
        found += [encode(phrase), encode(f" {phrase}")]
    for phrase in _spellings(OPENING):
        if phrase[0].isupper():
            found += [encode(before + phrase) for before in _BEFORE]
        if prompt_end is not None:
            found += [(prompt_end, *encode(phrase))]
    return list(dict.fromkeys(ids for ids in found if len(ids) > 1))


def directive_penalty(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], penalty: float = PENALTY
) -> Any:  # a transformers.LogitsProcessorList
    """For `generate(logits_processor=...)`.

    Args:
        prompt: (T,) the token ids that the reply follows.
        penalty: what is subtracted from a logit, above 0.
    """
    from transformers import LogitsProcessorList, SequenceBiasLogitsProcessor

    sequences = directive_sequences(tokenizer, prompt[-1] if prompt else None)
    return LogitsProcessorList([SequenceBiasLogitsProcessor(dict.fromkeys(sequences, -float(penalty)))])


def _spellings(phrases: Iterable[str]) -> list[str]:
    both = [spelled for phrase in phrases for spelled in (phrase, phrase[0].upper() + phrase[1:])]
    return both + [spelled.replace("'", "’") for spelled in both if "'" in spelled]
