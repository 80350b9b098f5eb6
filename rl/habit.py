"""How much of a reply is the policy's habit: a supportive tactic that it uses with everybody.

Prompts are people's histories, so D_KL compares a reply with what a *person* did in the turn before. A policy that
makes one move in every turn is never told that it repeats itself. The step's replies to other prompts give it away, as
they do for stock phrases (`rl.stock`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dialogue.tactics import Tactic
from rl.types import TurnTactics


def habit_shares(tactics: Sequence[Sequence[TurnTactics]], ceiling: float) -> list[list[float]]:
    """For every reply how far its tactics are overused, from 0 to 1 - `ceiling`.

    Overuse of a tactic, for a reply to one prompt, is the share of the sentences in the replies to the *other* prompts
    that have the tactic, less `ceiling`, and never below 0. A sentence counts as much as its most overused tactic, and
    a reply is the mean of its sentences.

    Args:
        tactics: P prompts' replies as the tactics of their sentences; how many there are per prompt does not matter.
        ceiling: the share of sentences up to which a tactic is no habit.

    Returns:
        As `tactics`. 0 for a reply without sentences, and where no other prompt has a sentence.
    """
    used = [Counter(tactic for reply in group for sentence in reply for tactic in set(sentence)) for group in tactics]
    sentences = [sum(len(reply) for reply in group) for group in tactics]
    everywhere, total = sum(used, Counter[Tactic]()), sum(sentences)
    shares = []
    for group, own, own_sentences in zip(tactics, used, sentences, strict=True):
        others = max(1, total - own_sentences)
        overuse = {tactic: max(0.0, (everywhere[tactic] - own[tactic]) / others - ceiling) for tactic in everywhere}
        shares.append([_mean_overuse(reply, overuse) for reply in group])
    return shares


def _mean_overuse(reply: TurnTactics, overuse: dict[Tactic, float]) -> float:
    worst = [max((overuse[tactic] for tactic in sentence), default=0.0) for sentence in reply]
    return sum(worst) / len(worst) if worst else 0.0
