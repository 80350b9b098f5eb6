"""The data of the conversation reader: what is embedded in the page, as plain JSON values.

A long run has more groups than a page should hold. `select` keeps those that somebody would look for (the largest
gains, the lowest rewards, every kind of fault), then an even sample over the steps, until the budget is used up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dialogue.conversation import Conversation
from dialogue.loaders import DataError, load_conversations
from dialogue.tactics import TACTICS
from evaluation.report.faults import Fault
from evaluation.report.groups import Group, Kind, groups_of
from evaluation.report.palette import LOOKS, spoken
from evaluation.report.run_files import Reply, Run
from evaluation.report.views import views
from reward_servers.protocol import Dimension

READER_BYTES = 2_500_000  # of all runs together
_DIGITS = 3
_SHOWN_ALWAYS = ("quality", "d_kl", "entropy")


def reader_data(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything that reader.js needs: names, conversations (once each), and the groups of every run."""
    talks = Talks()
    groups: list[Group] = []
    shown: list[dict[str, Any]] = []
    counts: list[dict[str, int]] = []
    for index, run in enumerate(runs):
        conversations = conversations_of(run)
        everything = groups_of(run)
        kept = select(everything, READER_BYTES // len(runs))
        groups += kept
        shown += [_group(group, index, talks.place(group, conversations), run) for group in kept]
        counts.append({"kept": len(kept), "all": len(everything)})
    return {
        "tactics": [{"name": spoken(tactic), "short": LOOKS[tactic].short} for tactic in TACTICS],
        "dimensions": [
            {"name": spoken(dimension), "lowerIsBetter": dimension.lower_is_better} for dimension in Dimension
        ],
        "views": [asdict(view) for view in views(groups)],
        "runs": [run.name for run in runs],
        "counts": counts,
        "talks": talks.turns,
        "groups": shown,
    }


def as_script(data: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element whatever the replies say: no `<`, `>` or `&` is left in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def conversations_of(run: Run) -> dict[str, Conversation]:
    """The conversations that the run was trained on, by id; empty where the file is no longer there."""
    path = run.setting("data.path", "")
    try:
        return {talk.id: talk for talk in load_conversations("starter" if path == "starter" else Path(str(path)))}
    except DataError:
        return {}


def select(groups: Sequence[Group], budget: int) -> list[Group]:
    """The groups to embed, in their old order.

    Args:
        groups: all of a run.
        budget: bytes of JSON, estimated from the texts; at least one group is kept where there is one.
    """
    kept: dict[int, Group] = {}
    used = 0
    for group in _wanted(groups):
        if id(group) in kept:
            continue
        used += sum(650 + len(reply.text.encode(errors="replace")) for reply in group.replies)
        if used > budget and kept:
            break
        kept[id(group)] = group
    return [group for group in groups if id(group) in kept]


def _wanted(groups: Sequence[Group]) -> Iterator[Group]:
    """Every group at least once, the ones most worth a place first: taken in turn from several rankings."""
    training = [group for group in groups if group.kind is Kind.TRAINING]
    rankings = [
        [group for group in groups if group.kind is Kind.HELD_OUT],
        sorted(training, key=lambda group: -(group.gain or 0.0)),
        sorted(training, key=lambda group: group.lowest if group.lowest is not None else math.inf),
        sorted(training, key=lambda group: -(group.dismissing or 0.0)),
        *([group for group in training if _has(group, fault)] for fault in Fault),
        _evenly(training),
        _evenly(training)[1::2],
    ]
    for row in zip_longest(*rankings):
        yield from (group for group in row if group is not None)


def _has(group: Group, fault: Fault) -> bool:
    return any(fault in faults for faults in group.faults)


def _evenly(groups: Sequence[Group]) -> list[Group]:
    """An order whose every beginning is spread over the whole: the middle, the quarters, the eighths, ..."""
    bits = max(1, len(groups)).bit_length()
    order = sorted(range(2**bits), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [groups[i] for i in order if i < len(groups)]


class Talks:
    """Conversations as the page holds them, each once however many groups belong to it."""

    def __init__(self) -> None:
        self.turns: list[list[str]] = []
        self._places: dict[Conversation, int] = {}

    def place(self, group: Group, conversations: Mapping[str, Conversation]) -> dict[str, int] | None:
        """Where the history of a group is: index into `turns` and the number of turns before the reply.

        None where the conversation is not known, or says something else there than the run was asked: then the file has
        changed since, and a wrong history would be worse than none.
        """
        name, _, turn = group.prompt_id.rpartition("/")
        conversation = conversations.get(name)
        if conversation is None or not turn.isdecimal() or not 0 < int(turn) < len(conversation.turns):
            return None
        if conversation.turns[int(turn) - 1].text != group.seeker:
            return None
        if conversation not in self._places:
            self._places[conversation] = len(self.turns)
            self.turns.append([entry.text for entry in conversation.turns])
        return {"talk": self._places[conversation], "turn": int(turn)}


def parts_of(reply: Reply) -> list[tuple[str, list[int]]]:
    """The reply cut where its tactics change hands: texts that join to the whole reply, each with tactic indices.

    White space before a sentence is a part of its own without tactics. Where the sentences are not found in the text
    one after the other, they are given as they are, with a space between.
    """
    parts: list[tuple[str, list[int]]] = []
    end = 0
    for sentence, tactics in zip(reply.sentences, reply.tactics, strict=True):
        start = reply.text.find(sentence, end)
        gap = reply.text[end:start] if start >= 0 else " "
        if gap:
            parts.append((gap, []))
        parts.append((sentence, [TACTICS.index(tactic) for tactic in tactics]))
        end = start + len(sentence) if start >= 0 else end
    if "".join(text for text, _ in parts) + reply.text[end:] != reply.text:
        return [part for part in parts if part[0].strip()]
    return [*parts, (reply.text[end:], [])] if reply.text[end:] else parts


def _group(group: Group, run_index: int, place: dict[str, int] | None, run: Run) -> dict[str, Any]:
    previous = group.replies[0].previous
    replies = list(zip(group.replies, group.labels, group.faults, strict=True))
    if group.kind is Kind.TRAINING:  # the best first; held-out replies stay in the order before, after
        replies.sort(key=lambda entry: -(entry[0].reward or 0.0))
    return {
        "run": run_index,
        "kind": group.kind,
        "step": group.step,
        "prompt": group.prompt_id,
        "seeker": group.seeker,
        "place": place,
        "previous": [TACTICS.index(tactic) for tactic in previous] if previous is not None else None,
        "gain": _rounded(group.gain),
        "lowest": _rounded(group.lowest),
        "dismissing": _rounded(group.dismissing),
        "replies": [_reply(reply, label, faults, run) for reply, label, faults in replies],
    }


def _reply(reply: Reply, label: str, faults: Sequence[Fault], run: Run) -> dict[str, Any]:
    return {
        "label": label,
        "parts": parts_of(reply) if not reply.empty else [(reply.text, [])],
        "faults": list(faults),
        "tokens": reply.tokens,
        "reward": _rounded(reply.reward),
        "lengthFactor": _rounded(reply.length_factor),
        "raw": _components(reply.raw, run),
        "scaled": _components(reply.scaled, run),
        "dimensions": [_rounded(value) for value in reply.dimensions] if reply.dimensions is not None else None,
        "trained": reply.trained,
        "version": reply.policy_version,
    }


def _components(values: Mapping[str, float] | None, run: Run) -> dict[str, float | None] | None:
    """Components by name; the surprisals only where the run's reward uses them."""
    if values is None:
        return None
    used = {name for name in ("bigram", "trigram") if run.setting(f"reward.gamma_{name}", 0.0)}
    return {name: _rounded(value) for name, value in values.items() if name in _SHOWN_ALWAYS or name in used}


def _rounded(value: float | None) -> float | None:
    """None also for NaN and infinity, which JSON in a browser does not know."""
    return round(value, _DIGITS) + 0.0 if value is not None and math.isfinite(value) else None
