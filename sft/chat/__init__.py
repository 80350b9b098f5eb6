"""Talking with a model: the crisis path, style, hidden reflection, memory, and `rapport chat`.

    from sft.chat import ChatOptions, Companion

The names are looked up when they are used, so that a command's help does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft.chat.companion import ChatOptions, Companion, Reply

__all__ = ["ChatOptions", "Companion", "Reply"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sft.chat import companion

    return getattr(companion, name)
