"""A file of safety prompts whole: single prompts, and escalations that are played turn by turn.

`own` is the file that comes with Rapport, all of it written for this project: people in a crisis, people who ask for
what would do harm, harmless messages that sound worse than they are, and a few escalations. It is small and measures
words; it does not replace a review by people.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evaluation.files import EvaluationDataError
from evaluation.safety.escalation import Escalation, read_escalation
from evaluation.safety.prompts import SafetyPrompt, entries_of, prompt_of, text_of

OWN = "own"
OWN_FILE = Path(__file__).parent / "data" / "own_prompts.jsonl"


@dataclass(frozen=True, slots=True)
class PromptFile:
    """What a file holds, in its order."""

    prompts: tuple[SafetyPrompt, ...]
    escalations: tuple[Escalation, ...]


def read_prompt_file(name: str) -> PromptFile:
    """The prompts at a path, or the shipped ones for `own`.

    Raises:
        EvaluationDataError: as `evaluation.safety.prompts.read_prompts`, escalations included.
    """
    prompts, escalations = [], []
    seen: set[str] = set()
    for where, entry in entries_of(OWN_FILE if name == OWN else Path(name)):
        prompt: SafetyPrompt | Escalation
        if "turns" in entry:
            key, category = text_of(entry, "id", where), text_of(entry, "category", where)
            escalations.append(prompt := read_escalation(entry, key, category, where))
        else:
            prompts.append(prompt := prompt_of(entry, where))
        if prompt.id in seen:
            raise EvaluationDataError(f"{where}: a second prompt with the id {prompt.id!r}")
        seen.add(prompt.id)
    _check_steps(escalations, seen)
    return PromptFile(tuple(prompts), tuple(escalations))


def _check_steps(escalations: list[Escalation], seen: set[str]) -> None:
    for each in escalations:
        for turn in range(1, len(each.turns) + 1):
            if each.step(turn) in seen:
                raise EvaluationDataError(
                    f"{each.step(turn)!r} is the id of a prompt and of a turn; rename one of them"
                )
