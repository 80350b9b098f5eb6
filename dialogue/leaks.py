"""Does a reply show the seeker the labels that were meant for the supporter only?"""

from __future__ import annotations

import re

from dialogue.tactics import TACTICS

_NAMES = "|".join(sorted((t.value.replace("_", "[ _-]") for t in TACTICS), key=len, reverse=True))

# Each pattern is something nobody writes in a natural reply, so that "that is good advice" is no leak but "Advice:" is.
_LEAKS = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"^\s{0,3}#{1,6}\s+\S", re.MULTILINE),  # a Markdown heading of any wording
        (
            rf"(?:^|\n|[.!?]\s)\W{{0,4}}(?:\d+[.)]\s*)?\W{{0,3}}(?:{_NAMES})\W{{0,3}}:",
            re.IGNORECASE,
        ),  # "Validation:"
        (
            rf"\*{{1,3}}\s*(?:\d+[.)]\s*)?(?:{_NAMES})\s*\*{{1,3}}",
            re.IGNORECASE,
        ),  # "**1. Reappraisal**"
        (rf"[(\[<]\s*(?:{_NAMES})\s*[)\]>]", re.IGNORECASE),  # "(Empowerment)"
        (
            r"\b(?:emotional_expression|self_disclosure)\b",
            re.IGNORECASE,
        ),  # an identifier, never English
        (
            rf"^\s*(?:[-*]|\d+[.)])\s*(?:{_NAMES})\s*$",
            re.IGNORECASE | re.MULTILINE,
        ),  # a bare name as a list item
    )
)


def leaks_labels(text: str) -> bool:
    """True where tactic names stand as labels, headings or list items, or any Markdown heading is shown."""
    return any(pattern.search(text) for pattern in _LEAKS)
