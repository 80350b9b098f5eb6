"""Text as the crisis rules read it: one alphabet, one case, one apostrophe, and words that were hidden put together.

    1. compatibility forms (NFKC), accents and invisible characters off, case folded
    2. Cyrillic and Greek letters that look like Latin ones become these
    3. one letter at a time ("k i l l", "s.u.i.c.i.d.e") becomes a word, from four letters on
    4. digits and signs inside a word become the letter they stand for ("su1c1de", "k!ll"); "su*cide" keeps its star
    5. a letter that is repeated three times or more stays once ("diiie")

What comes out is for matching only and is never shown as what somebody wrote.
"""

from __future__ import annotations

import re
import unicodedata

_APOSTROPHES = dict.fromkeys("‘’‛ʼ`′", "'")
_LOOKALIKES = dict(zip("аеорсухіктмвнѕј", "aeopcyxiktmbhsj", strict=True)) | dict(
    zip("αορυικν", "aopuikv", strict=True)
)
_TABLE = str.maketrans(_APOSTROPHES | _LOOKALIKES | dict.fromkeys("‐‑‒–—―", "-") | {"…": "..."})
_STANDS_FOR = str.maketrans("013457@$!", "oieastasi")

_SPACED = re.compile(r"(?<![^\W_])(?:[a-z](?:[ ._*-]|\s)){3,}[a-z](?![^\W_])")
_DISGUISED = re.compile(r"(?<=[a-z])[013457@$!]+(?=[a-z])")
_REPEATED = re.compile(r"([a-z])\1{2,}")
_BLANKS = re.compile(r"[^\S\n]+")


def normalise(text: str) -> str:
    """See above. Line ends stay, other white space becomes single blanks."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    parts = unicodedata.normalize("NFD", folded)
    plain = "".join(c for c in parts if unicodedata.category(c) not in ("Mn", "Cf", "Cs", "Co", "Cn"))
    plain = _BLANKS.sub(" ", plain.translate(_TABLE))
    plain = _SPACED.sub(lambda found: re.sub(r"[^a-z]", "", found[0]), plain)
    plain = _DISGUISED.sub(lambda found: found[0].translate(_STANDS_FOR), plain)
    return _REPEATED.sub(r"\1", plain).strip()
