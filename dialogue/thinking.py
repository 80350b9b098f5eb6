"""Taking the thinking block off a reply: only what the seeker would see is scored, tagged and shown."""

from __future__ import annotations

OPEN = "<think>"
CLOSE = "</think>"


def strip_thinking(text: str) -> str:
    """Remove leading `<think>...</think>` blocks and the white space after them.

    A block that was never closed (generation ran into its limit) leaves an empty reply. Text that does not start with
    a block, white space aside, comes back as it is.
    """
    while text.lstrip().startswith(OPEN):
        _, _, after = text.partition(CLOSE)
        text = after.lstrip()
    return text
