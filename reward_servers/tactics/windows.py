"""A reply as the encoder reads it: token windows that hold whole sentences, and where each sentence lies in them.

The reply is encoded once; a sentence's features are the mean of its tokens, which have already attended to the rest
of the reply. One forward pass therefore tags all sentences of a reply, each with the whole reply as context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

WINDOW_TOKENS = 384
SENTENCE_TOKENS = 160
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "..."})
# UTF-8 punctuation read as Mac Roman begins with these two characters; it is common in exported spreadsheets.
_MOJIBAKE = "\u201a\u00c4"


@dataclass(frozen=True, slots=True)
class Window:
    """T token ids with the special tokens at both ends, and one half-open token span per sentence in it."""

    token_ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class SentenceWindows:
    """Cuts replies into windows with the encoder's own tokenizer."""

    def __init__(self, encoder_folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(encoder_folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # a "[SEP]" that somebody typed is text
        self._cls, self._sep, self._unknown = (
            self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[UNK]")
        )

    def of_reply(self, sentences: Sequence[str]) -> tuple[Window, ...]:
        """Windows of at most `WINDOW_TOKENS` tokens that hold the S sentences in order.

        A reply of ordinary length is one window. A sentence longer than `SENTENCE_TOKENS` is read up to there; one
        without any token (white space, say) is read as one unknown token, so every sentence has a span.
        """
        encoded = [self._sentence_ids(sentence) for sentence in sentences]
        return tuple(self._window(group) for group in _packed(encoded, WINDOW_TOKENS - 2))

    def _sentence_ids(self, sentence: str) -> list[int]:
        ids = self._tokenizer.encode(readable(sentence), add_special_tokens=False).ids
        return ids[:SENTENCE_TOKENS] or [self._unknown]

    def _window(self, group: Sequence[list[int]]) -> Window:
        ids, spans = [self._cls], []
        for sentence_ids in group:
            spans.append((len(ids), len(ids) + len(sentence_ids)))
            ids.extend(sentence_ids)
        return Window((*ids, self._sep), tuple(spans))


def readable(text: str) -> str:
    """Straight quotes, and punctuation whose UTF-8 bytes were once read as Mac Roman put right."""
    if _MOJIBAKE in text:
        try:
            text = text.encode("mac_roman").decode("utf-8")
        except UnicodeError:
            text = text.replace("\u201a\u00c4\u00f4", "'")
    return text.translate(_QUOTES)


def _packed(encoded: Sequence[list[int]], room: int) -> Iterator[list[list[int]]]:
    """Group consecutive sentences so that each group has at most `room` tokens."""
    group: list[list[int]] = []
    used = 0
    for ids in encoded:
        if group and used + len(ids) > room:
            yield group
            group, used = [], 0
        group.append(ids)
        used += len(ids)
    if group:
        yield group
