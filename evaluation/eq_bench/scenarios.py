"""EQ-Bench 3's scenarios and prompts, from the folder of its authors that the user names; none are in this repository.

    scenario_prompts.txt      ######## id | category | title      then for each turn    ####### Prompt1
    scenario_notes.txt        # id, then what a judge should know of it; a scenario may have none
    the other files           templates, whose {names} are filled in

What kind of task a scenario is follows from its id, as in the authors' code (EQ-bench/eqbench3, utils/constants.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from evaluation.files import EvaluationDataError, read_text, shown

SCENARIOS_FILE = "scenario_prompts.txt"
NOTES_FILE = "scenario_notes.txt"
NO_NOTES = "[No scenario notes available]"

_SCENARIO = re.compile(r"########\s*([^|\s]+)\s*\|([^|]*)\|(.*)")
_PROMPT = re.compile(r"#######\s*(?:Prompt)?\s*(\d+)\s*")
_NOTE = re.compile(r"#\s*(\d+)\s*")
_PLACE = re.compile(r"\{(\w+)\}")
_PLAIN_IDS = frozenset({"8", "10", "12", "14"})


class Kind(StrEnum):
    """How a scenario is asked and judged."""

    ROLE_PLAY = "role_play"  # several turns, each with thoughts, the other's thoughts and a response; then a debrief
    DRAFTING = "drafting"  # the same with a message to be drafted
    PLAIN = "plain"  # the scenario as it stands; then a debrief
    ANALYSIS = "analysis"  # one long analysis of a transcript, no debrief


class Part(StrEnum):
    """A template, by its file's name without .txt; `PLACES` has what each must hold."""

    ROLE_PLAY = "scenario_master_prompt"
    DRAFTING = "scenario_master_prompt_message_drafting"
    ANALYSIS = "scenario_master_prompt_analysis"
    DEBRIEF = "debrief_prompt"
    RUBRIC = "rubric_scoring_prompt"
    RUBRIC_ANALYSIS = "rubric_scoring_prompt_analysis"
    PAIRWISE = "pairwise_prompt_eqbench3"
    PAIRWISE_ANALYSIS = "pairwise_prompt_eqbench3_analysis"


PLACES: Mapping[Part, frozenset[str]] = {
    Part.ROLE_PLAY: frozenset({"scenario_prompt"}),
    Part.DRAFTING: frozenset({"scenario_prompt"}),
    Part.ANALYSIS: frozenset({"scenario_prompt"}),
    Part.DEBRIEF: frozenset(),
    Part.RUBRIC: frozenset({"transcript", "debrief", "output_format"}),
    Part.RUBRIC_ANALYSIS: frozenset({"transcript", "output_format"}),
    Part.PAIRWISE: frozenset(
        {"conversation_history_A", "debrief_A", "conversation_history_B", "debrief_B", "scenario_notes"}
    ),
    Part.PAIRWISE_ANALYSIS: frozenset({"transcript_being_analysed", "response_A", "response_B", "scenario_notes"}),
}
_MASTERS = {Kind.ROLE_PLAY: Part.ROLE_PLAY, Kind.DRAFTING: Part.DRAFTING, Kind.ANALYSIS: Part.ANALYSIS}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One task: what the user says, turn by turn."""

    id: str
    title: str
    prompts: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        if self.id in _PLAIN_IDS:
            return Kind.PLAIN
        hundreds = int(self.id) // 100 if self.id.isascii() and self.id.isdigit() else 0
        return {2: Kind.DRAFTING, 4: Kind.ANALYSIS}.get(hundreds, Kind.ROLE_PLAY)


@dataclass(frozen=True, slots=True)
class Bench:
    """All of it: scenarios in the order of their file, notes by scenario id, templates."""

    scenarios: tuple[Scenario, ...]
    notes: Mapping[str, str]
    templates: Mapping[Part, str]

    def asked(self, scenario: Scenario) -> list[str]:
        """The user's messages as the model gets them."""
        master = _MASTERS.get(scenario.kind)
        if master is None:
            return list(scenario.prompts)
        return [fill(self.templates[master], scenario_prompt=prompt) for prompt in scenario.prompts]

    def note(self, scenario: str) -> str:
        return self.notes.get(scenario, NO_NOTES)


def fill(template: str, **values: str) -> str:
    """The template with the {names} of `values` filled in; braces in the values, and other braces, stay."""
    return _PLACE.sub(lambda found: values.get(found[1], found[0]), template)


def read_bench(folder: Path) -> Bench:
    """Everything from the authors' folder.

    Raises:
        EvaluationDataError: a file is missing, a template lacks a place, or the scenarios are not in their form.
    """
    if not folder.is_dir():
        raise EvaluationDataError(f"{folder} is not a folder; give that of EQ-Bench 3's data, with {SCENARIOS_FILE}")
    scenarios = read_scenarios(folder / SCENARIOS_FILE)
    return Bench(tuple(scenarios), _read_notes(folder / NOTES_FILE), {part: _read_part(folder, part) for part in Part})


def read_scenarios(path: Path) -> list[Scenario]:
    """The scenarios; errors as `read_bench`, with the line."""
    found: dict[str, tuple[str, list[list[str]]]] = {}
    name = ""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        where = f"{path}, line {number}"
        if line.startswith("########"):
            name, title = _heading(line, where)
            if name in found:
                raise EvaluationDataError(f"{where}: a second scenario {name!r}")
            found[name] = (title, [])
        elif prompt := _PROMPT.fullmatch(line):
            prompts = _prompts_of(found, name, where)
            if int(prompt[1]) != len(prompts) + 1:
                raise EvaluationDataError(f"{where}: prompt {prompt[1]} where {len(prompts) + 1} is due")
            prompts.append([])
        elif line.strip() or (name and found[name][1]):
            prompts = _prompts_of(found, name, where)
            if not prompts:
                raise EvaluationDataError(f"{where}: text before the first prompt: {shown(line)}")
            prompts[-1].append(line)
    scenarios = [_scenario(key, title, prompts, path) for key, (title, prompts) in found.items()]
    if not scenarios:
        raise EvaluationDataError(f"{path}: no scenario; expected lines like '######## 1 | category | title'")
    return scenarios


def _heading(line: str, where: str) -> tuple[str, str]:
    found = _SCENARIO.fullmatch(line)
    if found is None:
        raise EvaluationDataError(f"{where}: found {shown(line)}; expected '######## id | category | title'")
    return found[1], f"{found[2].strip()}: {found[3].strip()}"


def _prompts_of(found: Mapping[str, tuple[str, list[list[str]]]], name: str, where: str) -> list[list[str]]:
    if not name:
        raise EvaluationDataError(f"{where}: text before the first scenario; expected '######## id | category | title'")
    return found[name][1]


def _scenario(name: str, title: str, prompts: list[list[str]], path: Path) -> Scenario:
    texts = tuple("\n".join(lines).strip() for lines in prompts)
    if not texts or not all(texts):
        raise EvaluationDataError(f"{path}: scenario {name!r} has no prompt, or an empty one; is the file cut off?")
    return Scenario(name, title, texts)


def _read_notes(path: Path) -> dict[str, str]:
    notes: dict[str, list[str]] = {}
    name = ""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if heading := _NOTE.fullmatch(line):
            name = heading[1]
            notes[name] = []
        elif name:
            notes[name].append(line)
        elif line.strip():
            raise EvaluationDataError(f"{path}, line {number}: text before the first '# id'")
    return {key: "\n".join(lines).strip() for key, lines in notes.items()}


def _read_part(folder: Path, part: Part) -> str:
    path = folder / f"{part.value}.txt"
    text = read_text(path)
    if missing := sorted(PLACES[part] - set(_PLACE.findall(text))):
        raise EvaluationDataError(f"{path}: no place for {', '.join(f'{{{name}}}' for name in missing)}")
    return text
