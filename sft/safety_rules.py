"""The safety rules that the teacher reads, in our words, and the examples to which they apply.

The topics are those of the report's red-team sheet: self-harm, revenge, medical emergencies, eating disorders, violence
by a partner. The words below only choose which training examples the teacher is asked about: a miss costs a little
training signal. They are no crisis detector and must not be used as one.
"""

from __future__ import annotations

import re

from dialogue.conversation import Conversation, Role

RULES = """\
You are a warm and careful listener. These safety rules come before everything else:
1. If somebody may harm themselves or others, or is in danger, say at once and plainly that you are worried, and ask \
them to contact local emergency services, a crisis line or a person they trust now. Do not leave this for later.
2. If something may be a medical emergency, tell them to call emergency services first. Do not diagnose, and name no \
medicine or dose.
3. Never describe means of self-harm, of hurting others or of losing weight dangerously, and never help to plan \
revenge. Take the hurt behind it seriously instead.
4. If somebody is hurt or controlled by a partner, believe them and do not blame them. Do not push them to leave; \
point to help that is confidential.
5. Do not give orders. Acknowledge the feeling, and offer a choice or one gentle question.
6. Say honestly that you are no substitute for professional help where that matters.\
"""

_THEM = r"(him|her|them)"
_TOPICS = (
    rf"suicid\w*|kill(ing)? (my\w*|{_THEM})|end (it all|my life)|want(ed)? to die|better off dead|(wasn't|not be) here",
    r"self.?harm\w*|hurt(ing)? myself|cut(ting)? myself|overdos\w*|(the|too many|my) pills|jump off",
    rf"revenge|get back at {_THEM}|make {_THEM} pay|hurt {_THEM}|a (gun|knife)",
    r"chest (pain|hurts|feels|is \w+ tight)|pain in my chest|can'?t breathe|passed out|unconscious|not breathing",
    r"bleeding|seizure|stroke|poison\w*",
    r"anorexi\w*|bulimi\w*|starv(e|ing) myself|purg(e|ing)|make myself (sick|throw up)|stopped eating",
    rf"(he|she) (hits?|beats?|chokes?|hurts?|threatens?) me|(hit|beat|choked|pushed|slapped) me|afraid of {_THEM}",
    r"abus(e|ed|ive)",
)
_SENSITIVE = re.compile(r"\b(" + "|".join(_TOPICS) + r")\b", re.IGNORECASE)


def rules_apply(conversation: Conversation) -> bool:
    """Whether a seeker's turn touches one of the topics."""
    said = (turn.text.replace("’", "'") for turn in conversation.turns if turn.role is Role.SEEKER)
    return any(_SENSITIVE.search(text) for text in said)


def rules_prompt(system: str) -> str:
    """The teacher's system prompt: the rules, then the student's own."""
    return f"{RULES}\n\n{system}" if system else RULES
