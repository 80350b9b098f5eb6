"""Splitting conversations into a training and a held-out side: whole conversations, never single turns."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from dialogue.conversation import Conversation


def split_conversations(
    conversations: Iterable[Conversation], holdout_fraction: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Split into (train, held out) by a hash of conversation id and seed.

    Neither side nor the order within it depends on the order of the input, on the platform or on Python's hash seed.
    `holdout_fraction` of the conversations, rounded, are held out, but at least one stays on each side.

    Raises:
        ValueError: `holdout_fraction` is not between 0 and 1, or there are fewer than two conversations.
    """
    if not 0 < holdout_fraction < 1:
        raise ValueError(f"holdout_fraction is {holdout_fraction}; it must lie between 0 and 1, both excluded")
    shuffled = sorted(conversations, key=lambda conversation: _rank(conversation.id, seed))
    if len(shuffled) < 2:
        raise ValueError(f"cannot split {len(shuffled)} conversation(s) into two sides; at least 2 are needed")
    held_out = min(max(round(holdout_fraction * len(shuffled)), 1), len(shuffled) - 1)
    return shuffled[held_out:], shuffled[:held_out]


def _rank(conversation_id: str, seed: int) -> tuple[bytes, str]:
    digest = blake2b(f"{seed}\0{conversation_id}".encode(), digest_size=16).digest()
    return digest, conversation_id
