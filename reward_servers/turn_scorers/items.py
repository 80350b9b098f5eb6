"""The five yes/no items of the label, as a formula reads them off a reply (Yun 2025; the wording is ours).

    affirmation      accepts or shares the feeling: "that makes sense", "I'm so sorry", "congratulations"
    reflection       says back what the other feels or means: "you must be", "it sounds like", a word of feeling
    non-judgement    no blame, no belittling, no order
    specificity      takes up a content word of what the speaker said
    supportiveness   wishes well, offers help or company, or invites to tell more

Patterns over words are a crude reading: they miss sympathy in other words and take politeness for it. That is why they
weigh a fifth of the label only. They find; they do not understand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

from dialogue.conversation import Message
from dialogue.emotions import Feeling


class Item(StrEnum):
    """The five items; each is 0 or 1."""

    AFFIRMATION = "affirmation"
    REFLECTION = "reflection"
    NON_JUDGEMENT = "non_judgement"
    SPECIFICITY = "specificity"
    SUPPORTIVENESS = "supportiveness"


Items = tuple[int, ...]  # one 0 or 1 for each `Item`, in its order


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_FEELINGS = "|".join(
    [*(f.value for f in Feeling), *"happy upset scared worried stressed frustrated heartbroken hurt".split()]
)
_STRONG = "awful|terrible|horrible|rough|tough|hard|sad|scary|awesome|amazing|wonderful|exciting|frustrating|stressful"

AFFIRMATION = _any_of(
    r"\bsorry\b",
    r"\b(?:i|we) (?:totally |completely |really )?(?:understand|get it|know how|feel you|feel for|hear you|agree)\b",
    r"\bmakes? (?:total |perfect |a lot of )?sense\b|\bunderstandable\b|\b(?:don'?t|can'?t|do not) blame you\b",
    r"\bcongrat\w*|\b(?:good|happy|glad|proud) (?:for|of) you\b|\bwell done\b|\bgood job\b",
    r"\b(?:that|this|it)(?:'s| is| was| sounds| must (?:be|have been| feel)| had to be)[^.!?]{0,20}"
    rf"\b(?:{_STRONG}|{_FEELINGS})\b",
    r"\b(?:oh no|aww?+|oh my|wow|bummer|i'd be too|so would i|me too)\b",
)
REFLECTION = _any_of(
    r"\byou (?:must|feel|felt|seem|sound|are feeling|were feeling)\b|\byou'?re (?:feeling|so|really)\b",
    r"\b(?:it|that|this)? ?(?:sounds?|seems?|looks?) (?:like|as if|so|really|very|pretty)\b",
    r"\b(?:must|had to|can|i bet (?:it|that|you))[^.!?]{0,15}\b(?:be|been|feel|felt)\b",
    rf"\byou(?:'re| are| were)?[^.!?]{{0,25}}\b(?:{_FEELINGS})\b",
)
JUDGEMENT = _any_of(
    r"\byou should(?:n'?t| not)? (?:have|be)\b|\byour (?:own )?fault\b|\bshame on\b",
    r"\b(?:get over|calm down|cheer up|grow up|man up|deal with it|suck it up)\b",
    r"\bstop (?:being|crying|worrying|complaining)\b|\bno big deal\b|\bnot a big deal\b|\btoo sensitive\b",
    r"\b(?:over-?react\w*|ridiculous|stupid|silly|dumb|lazy|crazy of you)\b",
    r"\bat least (?:you|it|he|she|they)\b|\bwhy (?:would|did|didn'?t) you (?:even|ever|do|not|just)\b",
)
WISHES = _any_of(
    r"\b(?:i|we)(?:'ll)? (?:really )?(?:hope|wish|pray)\w*\b|\bprayers?\b|\bfingers crossed\b",
    r"\b(?:good|best of) luck\b",
    r"\bhere for you\b|\blet me know\b|\bhang in there\b|\bi can (?:help|listen)\b|\btake care\b|\bnot alone\b",
    r"\byou(?:'ll| will| can|'ve got)\b[^.!?]{0,30}\b(?:fine|great|better|well|okay|ok|through|this|it)\b",
)
INVITATIONS = _any_of(
    r"\b(?:how|what)[^.!?]{0,40}\b(?:you|your)\b[^.!?]*\?|\b(?:are|do|did|have) you\b[^.!?]*\?|\btell me\b",
)

_WORD = re.compile(r"[a-z]{4,}")
_COMMON = frozenset(
    "that this with have from your you're they them then than what when were will would could should about there their "
    "been just like really very much some more most only also into over because which where while does didn't don't "
    "it's that's know think going want feel felt good well sure yeah okay time thing things make made people".split()
)


def formula_items(history: Sequence[Message], reply: str) -> Items:
    """(5,) items of a reply to the last message of `history`, each 0 or 1, in the order of `Item`."""
    said = " ".join(message["content"] for message in history if message["role"] == "user")
    found = (
        bool(AFFIRMATION.search(reply)),
        bool(REFLECTION.search(reply)),
        bool(reply.strip()) and not JUDGEMENT.search(reply),
        bool(_content_words(reply) & _content_words(said)),
        bool(WISHES.search(reply) or INVITATIONS.search(reply)),
    )
    return tuple(map(int, found))


def is_empathic(text: str) -> bool:
    """Whether a clause affirms, reflects or wishes well: what `augment` takes out. A question stays."""
    return any(pattern.search(text) for pattern in (AFFIRMATION, REFLECTION, WISHES))


def _content_words(text: str) -> set[str]:
    """Words of four letters and more, plural s taken off, without the commonest."""
    return {word.removesuffix("s") for word in _WORD.findall(text.lower()) if word not in _COMMON}
