"""What the network reads of a request: cleaned text, and a few counts that an encoder pools away.

No count is a reward by itself: they enter the head next to the encoder's states, are bounded, and the probes of
`probes.py` push against each of them (longer, more questions, more overlap are all tried by some family).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from dialogue.conversation import Message
from reward_servers.protocol import ScoreRequest

_SECOND = frozenset("you your yours you're you've you'll you'd yourself".split())
_SCORE_WORDS = frozenset(
    "score scores scored scoring rate rates rated rating ratings rater grade grader grading judge judges evaluator "
    "evaluate reward points stars marks rubric maximum criteria assessment response reply dimensions".split()
)
_OPEN_ENDS = frozenset(
    "the a an to of and that you your is are was for with in on at it's you're i'm i but or so if as this my from by "
    "be have has can will would not what how when because just into about than their his her our its".split()
)
_FIRST = frozenset("i i'm i've i'll i'd me my mine myself".split())
_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "–": "-", "—": " - ", "*": ""})
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_SYMBOLS = ("So", "Sk", "Cs", "Cn", "Co", "Cf", "Mn")

FEATURE_NAMES = (
    "words",
    "sentences",
    "questions",
    "second_person",
    "first_person",
    "overlap_with_seeker",
    "seeker_bigrams_copied",
    "distinct_words",
    "repeated_trigrams",
    "repeated_sentences",
    "ends_like_a_sentence",
    "ends_open",
    "letters",
    "capital_starts",
    "lines",
    "overlap_with_history",
    "score_words",
)


def plain_text(text: str) -> str:
    """Curly quotes and dashes made plain, emoji and emphasis marks dropped, white space inside lines collapsed.

    Emoji and asterisks mark the systems the judge liked; a scorer that never sees them cannot be paid with them.
    """
    text = unicodedata.normalize("NFKC", text.translate(_PLAIN))
    text = "".join(c for c in text if c.isascii() or unicodedata.category(c) not in _SYMBOLS)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def latest_seeker(history: Sequence[Message]) -> str:
    """The last message of the user, plain; empty if there is none."""
    return next((plain_text(m["content"]) for m in reversed(history) if m["role"] == "user"), "")


def latest_reply(history: Sequence[Message]) -> str:
    """The last message of the assistant before the reply, plain; empty if there is none."""
    return next((plain_text(m["content"]) for m in reversed(history) if m["role"] == "assistant"), "")


def surface_features(request: ScoreRequest) -> list[float]:
    """One bounded number per name of `FEATURE_NAMES`, each between 0 and about 1."""
    text = plain_text(request.response)
    words = _words(text)
    seeker = _words(latest_seeker(request.history))
    earlier = {w for m in request.history for w in _words(plain_text(m["content"]))}
    sentences = [s.strip().lower() for s in re.split(r"[.!?\n]+", text) if s.strip()]
    count = max(len(words), 1)
    return [
        min(len(words), 250) / 100,
        min(len(sentences), 20) / 10,
        min(text.count("?"), 4) / 4,
        sum(w in _SECOND for w in words) / count * 4,
        sum(w in _FIRST for w in words) / count * 4,
        sum(w in set(seeker) for w in words) / count,
        _share(_grams(words, 2), set(_grams(seeker, 2))),
        len(set(words)) / count,
        _repeated(_grams(words, 3)),
        _repeated(sentences),
        float(text[-1:] in '.!?")'),
        float(bool(words) and words[-1] in _OPEN_ENDS),
        sum(c.isalpha() for c in text) / max(len(text), 1),
        sum(s[:1].isupper() for s in re.split(r"(?<=[.!?\n])\s*", text) if s) / max(len(sentences), 1) / 2,
        min(text.count("\n"), 10) / 10,
        sum(w in earlier for w in words) / count,
        min(sum(w in _SCORE_WORDS for w in words), 4) / 4,
    ]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _share(items: Sequence[tuple[str, ...]], known: set[tuple[str, ...]]) -> float:
    return sum(item in known for item in items) / len(items) if items else 0.0


def _repeated(items: Sequence[object]) -> float:
    """Share of the items that are a repetition of an earlier one."""
    return 1 - len(Counter(items)) / len(items) if items else 0.0
