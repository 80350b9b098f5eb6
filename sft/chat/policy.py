"""From what the model wrote to what the seeker reads. No model here, so that it can be tested with any text.

In a crisis, whatever the model wrote, these hold of the reply:

    1. every line of the locale's resources for this kind of crisis, and the emergency number, is in it, and what the
       model left out stands before its words
    2. no service is named by two sentences, and no number is in it but those of the resources: models invent numbers
    3. text that encourages harm, names means, agrees, says the seeker's words as its own, or is no text at all is
       replaced by a fixed, kind sentence
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from dialogue.crisis.detector import Verdict, detect
from dialogue.crisis.normalise import normalise
from dialogue.crisis.rules import CrisisKind
from dialogue.sentences import split_sentences
from sft.chat.hidden import TAGS, drop_sentences, strip_hidden
from sft.chat.resources import Line, Resources

LISTENING = "I'm here, and I'm listening. Would you like to tell me a little more?"

_NUMBER = re.compile(r"\+?\d(?:[\d\s().\-–/]*\d)?")
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+|\b[\w-]+\.(?:com|org|net|info|co|uk|de|io)\b\S*", re.IGNORECASE)
_REFERS = re.compile(r"\b(?:call|text|dial|ring|contact|reach|phone|visit|try|at|on|unter|ruf)\b", re.IGNORECASE)
_NEGATED = re.compile(r"\b(?:not|never|no|without|instead|nicht|kein\w*)\b|n['’]t\b", re.IGNORECASE)
_HARMFUL = re.compile(
    r"\b(?:(?:kill|hang|cut|hurt|shoot|harm) yourself|"
    r"you (?:should|deserve to|ought to|better) (?:just )?(?:die|be dead)|"
    r"(?:go ahead|you should|you can|you could|feel free to|it'?s (?:ok|okay|fine) to)(?: and| just)* "
    r"(?:die|do it|end (?:it|your)|jump|overdose|take (?:all|the|more) (?:\w+ )?pills)|"
    r"(?:painless|easiest|best|quickest) ways? to (?:die|end)|"
    r"(?:death|dying|suicide) (?:is|can be|may be|might be|would be|could be) (?:\w+ ){0,3}"
    r"(?:blessing|relief|release|freedom|peace\w*|escape|solution|gift|choice|option|answer|beautiful)|"
    r"lethal|noose|tie (?:a|the) (?:rope|knot)|milligrams?|\d+ ?mg|dosage|kys)\b"
)
_AGREES = re.compile(
    r"\b(?:you(?:'re| are) (?:\w+ )?right(?! to\b)|i (?:\w+ )?agree|"
    r"that'?s (?:a |an )?(?:good|great|nice|wonderful|fine) (?:thing|idea|plan|choice|way)|"
    r"(?:glad|happy)(?: to hear)?(?: that)? you (?:feel|felt|think) (?:that|this) way)\b"
)
_FIRST_PERSON = re.compile(r"\bi(?:'m|'d|'ve|'ll)?\b")
_SECOND_PERSON = re.compile(r"\byou(?:'re|'d|'ve|'ll)?\b")
# Chinese, Japanese, Thai, Lao, Burmese and Khmer put no blanks between words: two characters count as one.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]{{1,2}}|(?:(?![{_UNSPACED}])[^\W\d_])+(?:['’][^\W\d_]+)?")
_ENOUGH_WORDS, _ENOUGH_LETTERS, _TOO_OFTEN = 3, 0.6, 0.5


@dataclass(frozen=True, slots=True)
class Shown:
    """A reply ready to be shown.

    Attributes:
        fixed: the model's text could not be used, and a fixed sentence stands in its place.
        added: resource lines that code put there, because the model had not said them.
    """

    text: str
    fixed: bool
    added: tuple[str, ...] = ()


def show(raw: str, verdict: Verdict, resources: Resources) -> Shown:
    """What is shown for what the model wrote after a seeker's turn with this verdict."""
    text = strip_hidden(_without_repetition(strip_hidden(raw)))  # what is left may put a tag together
    if not verdict.is_crisis:
        return Shown(text, False) if _is_text(text) else Shown(LISTENING, True)
    fixed = not _is_text(text) or _does_harm(text)
    if fixed:
        text = resources.phrases["fixed"]
    return _with_resources(text, verdict, resources, fixed)


def _does_harm(text: str) -> bool:
    """In answer to a crisis. A small model also agrees, or says the seeker's words as its own: "I want to die"."""
    plain = normalise(text)
    if _HARMFUL.search(plain) or _AGREES.search(plain):
        return True
    return any(_takes_the_part(sentence) for sentence in split_sentences(text))


def _takes_the_part(sentence: str) -> bool:
    """Words of a crisis about "I". With "you" in it, a sentence speaks of the seeker, or asks, as it should."""
    plain = normalise(sentence)
    if not _FIRST_PERSON.search(plain) or _SECOND_PERSON.search(plain):
        return False
    return detect(sentence).kind in (CrisisKind.SUICIDE, CrisisKind.SELF_HARM)


def _without_repetition(text: str) -> str:
    """Each sentence once: small models say one over and over."""
    said: set[str] = set()

    def again(sentence: str) -> bool:
        plain = " ".join(re.findall(r"\w+", sentence.casefold()))
        repeated = plain in said and " " in plain
        said.add(plain)
        return repeated

    return drop_sentences(text, again)


def is_usable(text: str) -> bool:
    """Whether a text is made of words: not empty, not mostly signs, not one word over and over."""
    return _is_text(strip_hidden(text))


def _is_text(text: str) -> bool:
    words = [word.casefold() for word in _WORD.findall(text)]
    if len(words) < _ENOUGH_WORDS or "\ufffd" in text:
        return False
    solid = re.sub(r"\s", "", text)
    if sum(map(str.isalpha, solid)) < _ENOUGH_LETTERS * len(solid):
        return False
    return len(words) <= 2 * _ENOUGH_WORDS or max(Counter(words).values()) <= _TOO_OFTEN * len(words)


def _with_resources(text: str, verdict: Verdict, resources: Resources, fixed: bool) -> Shown:
    lines = resources.lines_for(verdict.kind)
    known = {_key(line.contact) for line in lines}
    said: set[str] = set()

    def unwanted(sentence: str) -> bool:
        """Numbers and addresses stay where the sentence sends to one of ours that was not named before."""
        named = [_key(found) for found in _contacts(sentence)]
        if not named:
            return False
        refers = _REFERS.search(sentence) is not None and _NEGATED.search(sentence) is None
        if refers and set(named) <= known - said and len(set(named)) == len(named):
            said.update(named)
            return False
        return True

    text = drop_sentences(text, unwanted)
    if TAGS.search(text) or (not _is_text(text) and not said):
        text, fixed = resources.phrases["fixed"], True
        said.clear()
    missing = tuple(line for line in lines if _key(line.contact) not in said)
    block = _block(verdict, resources, missing)
    # What a model says may be beside the point or worse, so help comes before it; the fixed sentence leads up to help.
    parts = (text, block) if fixed else (block, text)
    return Shown("\n\n".join(filter(None, parts)), fixed, tuple(map(str, missing)))


def without_resources(text: str, resources: Resources) -> str:
    """A reply as it was shown, less the lines and sentences that name a service of ours.

    "Suicide & Crisis Lifeline: call 988" is no question about suicide, and a yes after it answers none.
    """
    lines = {str(line) for line in resources.lines}
    known = {_key(line.contact) for line in resources.lines}
    # Line by line: where a line ends without a full stop, a question after it would go with it.
    return "\n".join(
        drop_sentences(line, lambda sentence: bool(known & set(map(_key, _contacts(sentence)))))
        for line in text.splitlines()
        if line not in lines
    )


def _block(verdict: Verdict, resources: Resources, missing: tuple[Line, ...]) -> str:
    """What code adds: the worry, the lines that are missing, and the emergency number; it first where it is urgent."""
    phrases = resources.phrases
    emergency = phrases["emergency"].format(emergency=resources.emergency)
    services = "\n".join([phrases["lines"], *map(str, missing)]) if missing else ""
    lead = phrases[verdict.kind.value]
    first = verdict.urgent or verdict.kind is CrisisKind.DANGER
    parts = (lead, emergency, services) if first else (lead, services, emergency)
    return "\n".join(filter(None, parts))


def _contacts(sentence: str) -> list[str]:
    """Numbers of three digits or more, and addresses."""
    addresses = [found[0] for found in _ADDRESS.finditer(sentence)]
    rest = _ADDRESS.sub(" ", sentence)
    return addresses + [found[0] for found in _NUMBER.finditer(rest) if sum(map(str.isdigit, found[0])) >= 3]


def _key(contact: str) -> str:
    """Two spellings of one number or address have one key."""
    address = _ADDRESS.fullmatch(contact.strip().rstrip(".,;:!?)"))
    if address is not None:
        return re.sub(r"^(?:https?://)?(?:www\.)?", "", address[0].casefold()).rstrip("/")
    return re.sub(r"\D", "", contact)


def contacts_in(text: str) -> Counter[str]:
    """How often each number or address is in a text, by its key: for tests and measurements."""
    return Counter(_key(contact) for sentence in split_sentences(text) for contact in _contacts(sentence))
