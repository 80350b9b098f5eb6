"""What the model reads or writes and the seeker never sees: the one-line reflection, style tokens, special tokens.

Invariant: nothing that `TAGS` matches is left in what `strip_hidden` returns, whatever the model wrote: a block that
was never closed hides all that follows, a closing tag alone all that comes before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum

from dialogue.sentences import sentence_spans

OPEN, CLOSE = "<reflection>", "</reflection>"

_NAMES = r"(?:reflect(?:ion)?|think(?:ing)?)"
_BLOCK = re.compile(rf"<\s*{_NAMES}\b[^<>]*>.*?<\s*/\s*{_NAMES}\s*>", re.IGNORECASE | re.DOTALL)
_CLOSING = re.compile(rf"<\s*/\s*{_NAMES}\b[^<>]*>?", re.IGNORECASE)
_OPENING = re.compile(rf"<\s*{_NAMES}\b.*", re.IGNORECASE | re.DOTALL)
_LABELLED = re.compile(r"^[ \t]*[\[(*_]*\s*reflection\s*[\])*_]*\s*[:\-–—][^\n]*\n?", re.IGNORECASE | re.MULTILINE)
_TOKENS = re.compile(r"<\s*(?:tone|persona)\b[^<>]*>?|<\|[^<>]*\|>", re.IGNORECASE)
_CUT_OFF = re.compile(r"<[|/\s]*\w*$")
TAGS = re.compile(rf"<\s*/?\s*(?:{_NAMES}\b|tone\b|persona\b)|<\|[^<>]*\|>", re.IGNORECASE)


class ReflectionMode(StrEnum):
    """How the reflection comes about."""

    INSTRUCTION = "instruction"  # said to the model, with the feeling that the emotion head read
    GENERATED = "generated"  # written by the model first, then said to it: twice the time
    OFF = "off"


ASK_FOR_REFLECTION = (
    "Before you answer, write one private line for yourself: what this person feels, in a few words, and one gentle "
    "question you could ask. Write only that line."
)


def reflection_line(feeling: str | None) -> str:
    """The three parts of the reflection, with the feeling named where it is known."""
    named = f"They seem to feel {feeling}. " if feeling else ""
    return f"{named}Acknowledge what they said, name the feeling, and ask one gentle question."


def instruction(line: str) -> str:
    """The hidden part of the system prompt."""
    return f"Private note, never to be shown or mentioned: {OPEN}{line}{CLOSE}"


def strip_hidden(text: str) -> str:
    """What may be shown of what the model wrote; see the head of this file."""
    before = None
    while before != text:  # taking something out may put a new tag together
        before = text
        text = _TOKENS.sub("", _BLOCK.sub("", text))
        text = text[max((found.end() for found in _CLOSING.finditer(text)), default=0) :]
        text = _LABELLED.sub("", _OPENING.sub("", text))
        text = _CUT_OFF.sub("", text).strip()
    return text


def without_echo(text: str, hidden: Iterable[str]) -> str:
    """Leave out the sentences that repeat one of the hidden texts."""
    said = {_plain(hide[start:end]) for hide in hidden for start, end in sentence_spans(hide)}
    return drop_sentences(text, lambda sentence: _plain(sentence) in said)


def drop_sentences(text: str, unwanted: Callable[[str], bool]) -> str:
    """The text without the sentences for which `unwanted` is true; white space between the others stays."""
    kept, last = [], 0
    dropped = False
    for start, end in sentence_spans(text):
        if unwanted(text[start:end]):
            dropped = True
        else:
            kept.append(text[last:end])
        last = end
    return "".join(kept).strip() if dropped else text


def _plain(sentence: str) -> str:
    return re.sub(r"\W+", " ", sentence).strip().casefold()
