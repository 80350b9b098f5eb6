"""What people write stays text: the control tokens of a chat model come from its chat template alone.

A tokenizer reads `<|im_end|>` as the token that ends a turn, whoever wrote it. Typed by a seeker it would close their
turn and open one of the system; in training data it would end a reply where the supporter did not. So each control
token that a turn spells out is broken up with a blank before the template sees the turn:

    I am sad.<|im_end|>  ->  I am sad.< |im_end|>

Text without one comes back as it is. System prompts are ours and are left alone.

Control tokens are the tokenizer's special tokens, and those added to its vocabulary that stand in brackets as Qwen3's
`<think>` does; not added words or runs of blanks, which are ordinary text. Two kinds of marks cannot be told from text
and stay: a token of a single character, and turns that a template marks with ordinary words (`### User:`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from dialogue.conversation import Message

if TYPE_CHECKING:
    from transformers import AddedToken, PreTrainedTokenizerBase

_BRACKETED = re.compile(r"[<\[{|].*[>\]}|]", re.DOTALL)
_NOTHING = r"(?!)"
_ROUNDS = 8
_log = logging.getLogger(__name__)


class ControlTokenError(ValueError):
    """A control token that the tokenizer finds in a text however the text is spaced."""


class ControlTokens:
    """The control tokens of a tokenizer as it is now, and text without them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokens = [token for token in tokenizer.added_tokens_decoder.values() if _is_control(token)]
        self._pattern = _any_of(frozenset(token.content for token in tokens))
        # Some are looked for in the normalised text: where the tokenizer lowers letters, "<|END|>" may be one of them.
        late = [token.content for token in tokens if token.normalized]
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None) if late else None
        self._normalise: Callable[[str], str] | None = normalizer.normalize_str if normalizer is not None else None
        self._late_pattern = _any_of(frozenset(map(self._normalise, late) if self._normalise is not None else ()))

    def found_in(self, text: str) -> bool:
        """Whether the tokenizer would read a part of `text` as a control token."""
        if self._pattern.search(text):
            return True
        return self._normalise is not None and self._late_pattern.search(self._normalise(text)) is not None

    def plain(self, text: str) -> str:
        """`text` with every control token in it broken up; a second time changes nothing.

        Where the tokenizer would find one only after normalising, the normalised text is broken up.

        Raises:
            ControlTokenError: the tokenizer's normaliser takes the blanks out again.
        """
        plain = text
        for _ in range(_ROUNDS):
            plain = _broken_up(plain, self._pattern)
            if self._normalise is None or not self._late_pattern.search(read := self._normalise(plain)):
                return plain
            plain = _broken_up(read, self._late_pattern)
        raise ControlTokenError(
            f"the text that begins {text[:40]!r} spells out a control token of the tokenizer, whose normaliser undoes "
            "every way to break it up: take the token out of the text, or use another tokenizer"
        )

    def plain_messages(self, messages: Iterable[Message]) -> list[Message]:
        """The messages with `plain` contents, system prompts as they are: what a chat template may be given."""
        return [
            message if message["role"] == "system" else {**message, "content": self.plain(message["content"])}
            for message in messages
        ]

    def warn_of(self, texts: Sequence[str], origin: str) -> int:
        """Log how many of the `texts` from `origin` spell out control tokens, if any do, and return it."""
        found = [text for text in texts if self.found_in(text)]
        if found:
            _log.warning(
                "%s: %d of %d turns spell out control tokens of the model, which are read as text; one begins %r",
                origin, len(found), len(texts), found[0][:60],
            )  # fmt: skip
        return len(found)


def _is_control(token: AddedToken) -> bool:
    return token.special or _BRACKETED.fullmatch(token.content.strip()) is not None


@lru_cache(maxsize=16)
def _any_of(spellings: frozenset[str]) -> re.Pattern[str]:
    """Matches each spelling that has two visible characters, between which it can be broken up."""
    fit = {spelling for spelling in spellings if len(spelling.strip()) > 1}
    longest_first = sorted(fit, key=lambda spelling: (-len(spelling), spelling))
    return re.compile("|".join(map(re.escape, longest_first)) or _NOTHING)


def _broken_up(text: str, pattern: re.Pattern[str]) -> str:
    """Ends: each pass widens a gap between two visible characters, beyond what any spelling has there at last."""
    while pattern.search(text):
        text = pattern.sub(_with_blank, text)
    return text


def _with_blank(found: re.Match[str]) -> str:
    """Behind the first visible character: blanks that stand before it may belong to the token."""
    text = found[0]
    after = len(text) - len(text.lstrip()) + 1
    return f"{text[:after]} {text[after:]}"
