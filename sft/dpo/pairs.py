"""Preference pairs: reading, splitting, and tokenising them. One object a line, or a row of a hub dataset:

    {"history": [{"role": "user", "content": str}, ...], "chosen": str, "rejected": str, "safety_violation": bool}

`prompt` may stand for `history`: a text is one user turn. `chosen` and `rejected` may also be a list with one assistant
message, or whole conversations with the same messages before the last one: then the history need not be given. `id`, a
text or a number, may be given. `safety_violation` (default false) says that the rejected reply breaks a safety rule.

**Bad records** are counted by reason and refused past a share: replies that are the same text, an empty one, a history
that does not end with the user, two records of equal words whatever their ids. A key that looks like a misspelt one is
bad too; other keys are ignored, as hub datasets have many. Messages of one person in a row are joined, by the rule of
all readers.

**Split.** Conversations that open with the same words are on the same side, so that no turn of a conversation is in
training while another is in the dev loss.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from dialogue.conversation import Conversation, Role, Turn
from dialogue.loaders import DataError
from dialogue.split import split_conversations
from sft.dpo.config import PairsConfig
from sft.examples import Split
from sft.readers.fields import Said, as_object, as_turns, get, get_text, shown
from sft.readers.ledger import BadRecord, Note, Reason, Report, read_records
from sft.readers.sources import find_file, hub_records, json_records
from sft.tokens import ChatTokens, TokenSequence

_KEYS = ("id", "history", "prompt", "chosen", "rejected", "safety_violation")
_ROLES = {
    "user": Role.SEEKER,
    "seeker": Role.SEEKER,
    "assistant": Role.SUPPORTER,
    "supporter": Role.SUPPORTER,
}
_MISSPELT = 0.87  # similarity above which a key is taken for a misspelt one: chosen_id and rejected_id are below


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to a conversation, which ends with the seeker's turn. `violation`: the rejected one is unsafe."""

    conversation: Conversation
    chosen: str
    rejected: str
    violation: bool = False
    split: Split = Split.TRAIN

    @property
    def id(self) -> str:
        return self.conversation.id


class TokenPair(NamedTuple):
    """One pair as token ids: two sequences with the same prompt."""

    chosen: TokenSequence
    rejected: TokenSequence
    violation: bool

    @property
    def tokens(self) -> int:
        return len(self.chosen.ids) + len(self.rejected.ids)


@dataclass(frozen=True, slots=True)
class TokenPairs:
    """`too_long`: pairs left out because the seeker's last turn and a reply alone do not fit."""

    pairs: tuple[TokenPair, ...]
    too_long: int


def read_pairs(config: PairsConfig) -> Report[Pair]:
    """All good pairs of `config.source`, in its order.

    Raises:
        DataError: the source cannot be opened, too many records are bad, or none is left.
    """
    file = find_file(config.source, ())
    records = json_records(file) if file else hub_records(config.source, Split.TRAIN)
    seen: dict[str, str] = {}

    def parse(value: object, notes: Counter[Note]) -> Pair:
        pair = _parse(value, notes)
        words = name_of(pair.conversation.turns, pair.chosen, pair.rejected)
        if words in seen:
            raise BadRecord(Reason.DUPLICATE_PAIR, f"the same words as in {seen[words]!r}; expected every pair once")
        seen[words] = pair.id
        return pair

    return read_records(records, parse, config.source, None, config.max_bad_share)


def split_pairs(pairs: Iterable[Pair], dev_share: float, seed: int, origin: str) -> tuple[list[Pair], list[Pair]]:
    """Training and dev pairs, whole conversations on one side; see the module's text.

    Raises:
        DataError: there are fewer than two conversations.
    """
    several = list(pairs)
    opening = {pair.id: pair.conversation.turns[0].text for pair in several}
    named = [Conversation(text, ()) for text in sorted(set(opening.values()))]
    try:
        _, held_out = split_conversations(named, dev_share, seed)
    except ValueError as error:
        raise DataError(f"{origin}: {error}; conversations that open alike count as one") from error
    dev = {conversation.id for conversation in held_out}
    return [p for p in several if opening[p.id] not in dev], [p for p in several if opening[p.id] in dev]


def tokenise_pairs(pairs: Sequence[Pair], chat: ChatTokens) -> TokenPairs:
    """Raises DataError where the chat template refuses a conversation or no pair is short enough."""
    history = [turn.text for pair in pairs for turn in pair.conversation.turns]
    chat.control.warn_of([*history, *(text for pair in pairs for text in (pair.chosen, pair.rejected))], "pairs")
    done: list[TokenPair] = []
    for pair in pairs:
        answers = chat.answers(pair.conversation, (pair.chosen, pair.rejected))
        if answers is not None:
            done.append(TokenPair(answers[0], answers[1], pair.violation))
    if not done:
        raise DataError(f"none of {len(pairs)} pairs fits pairs.max_tokens: raise it")
    return TokenPairs(tuple(done), len(pairs) - len(done))


def name_of(turns: Iterable[Turn], *replies: str) -> str:
    """A hash of the words of a history, and of replies to it."""
    content = repr(([(turn.role.value, turn.text) for turn in turns], *replies))
    return blake2b(content.encode(), digest_size=8).hexdigest()


def parse_history(fields: Mapping[str, Any], notes: Counter[Note]) -> tuple[Turn, ...]:
    """The turns of `history` or `prompt`, the last of them the seeker's. Raises BadRecord."""
    return _answerable(_history(fields), notes)


def _parse(value: object, notes: Counter[Note]) -> Pair:
    fields = as_object(value)
    _refuse_misspelt(fields)
    said, chosen, rejected = _said_and_replies(fields)
    turns = _answerable(said, notes)
    if chosen == rejected:
        raise BadRecord(Reason.IDENTICAL_REPLIES, f"chosen and rejected are both {shown(chosen)}; expected two replies")
    violation = fields.get("safety_violation")
    if not isinstance(violation, bool | None):
        raise BadRecord(Reason.UNKNOWN_LABEL, f"'safety_violation' is {shown(violation)}; expected true or false")
    name = _given_id(fields) or name_of(turns, chosen, rejected)
    return Pair(Conversation(f"pair:{name}", turns), chosen, rejected, bool(violation))


def _given_id(fields: Mapping[str, Any]) -> str:
    """Empty where there is none."""
    given = fields.get("id")
    if given is None:
        return ""
    return str(given) if isinstance(given, int) else get_text(fields, "id")


def _answerable(said: list[Said], notes: Counter[Note]) -> tuple[Turn, ...]:
    turns = tuple(turn for turn, _ in as_turns(said, notes))
    if turns[-1].role is not Role.SEEKER:
        raise BadRecord(Reason.UNKNOWN_ROLE, "the history ends with the assistant; expected the user, who is answered")
    return turns


def _said_and_replies(fields: Mapping[str, Any]) -> tuple[list[Said], str, str]:
    """The history, the chosen and the rejected reply, in any of the forms of the module's text."""
    sides = get(fields, "chosen"), get(fields, "rejected")
    if not any(isinstance(side, list) and len(side) > 1 for side in sides):
        return _history(fields), _reply(fields, "chosen"), _reply(fields, "rejected")
    (said, chosen), (other, rejected) = _conversation(fields, "chosen"), _conversation(fields, "rejected")
    if said != other:
        found = "'chosen' and 'rejected' are conversations that differ before their last message"
        raise BadRecord(Reason.MALFORMED, f"{found}; expected two replies to one history")
    if any(fields.get(name) is not None for name in ("history", "prompt")) and _history(fields) != said:
        found = "the history is not what the conversations 'chosen' and 'rejected' begin with"
        raise BadRecord(Reason.MALFORMED, f"{found}; expected the same messages, or none")
    return said, chosen, rejected


def _conversation(fields: Mapping[str, Any], name: str) -> tuple[list[Said], str]:
    """All but the last message, and the last one's text, which is the assistant's."""
    value = get(fields, name)
    if not isinstance(value, list) or not value:
        raise BadRecord(Reason.MALFORMED, f"{name!r} is {shown(value)}; expected a conversation, as the other one is")
    *before, last = [_message(as_object(message)) for message in value]
    if last.role is not Role.SUPPORTER:
        raise BadRecord(Reason.UNKNOWN_ROLE, f"{name!r} ends with the user; expected the assistant's reply")
    return before, last.text


def _refuse_misspelt(fields: Mapping[str, Any]) -> None:
    for key in fields.keys() - set(_KEYS):
        close = difflib.get_close_matches(str(key), _KEYS, n=1, cutoff=_MISSPELT)
        if close and close[0] not in fields:
            raise BadRecord(Reason.MALFORMED, f"unknown key {key!r}; did you mean {close[0]!r}?")


def _history(fields: Mapping[str, Any]) -> list[Said]:
    if fields.get("history") is not None and fields.get("prompt") is not None:
        raise BadRecord(Reason.MALFORMED, "both 'history' and 'prompt'; expected one of them")
    value = get(fields, "history", "prompt")
    if isinstance(value, str):
        return [Said(Role.SEEKER, get_text(fields, "history", "prompt"))]
    if not isinstance(value, list) or not value:
        raise BadRecord(Reason.EMPTY_DIALOGUE, f"the history is {shown(value)}; expected a text or a list of messages")
    return [_message(as_object(message)) for message in value]


def _message(fields: Mapping[str, Any]) -> Said:
    role = get_text(fields, "role")
    if role not in _ROLES:
        found = f"role {role!r}; expected user or assistant (the system prompt of a run is pairs.system)"
        raise BadRecord(Reason.UNKNOWN_ROLE, found)
    return Said(_ROLES[role], get_text(fields, "content"))


def _reply(fields: Mapping[str, Any], name: str) -> str:
    value = get(fields, name)
    if isinstance(value, str):
        return get_text(fields, name)
    if isinstance(value, list) and len(value) == 1:
        said = _message(as_object(value[0]))
        if said.role is Role.SUPPORTER:
            return said.text
    raise BadRecord(
        Reason.MALFORMED, f"{name!r} is {shown(value)}; expected a text, or a list of one assistant message"
    )
