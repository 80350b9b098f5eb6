"""EQ-Bench 3 over several models: what each played is kept, and all that were kept are rated together.

    <out>/models/<name>.json    the transcripts of one model, its marks and what failed
    <out>/standings.json        rubric scores, ratings with intervals, comparisons

Ratings are made of matches in 20 bins, their intervals of matches in 3, as in the authors' code; with two anchors (a
name and a value each) they are put on the line through these. The first model alone has the rating that all begin with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.eq_bench.judging import MarkedTasks
from evaluation.eq_bench.pairwise import BINS_FOR_INTERVALS, Comparison, matches_of
from evaluation.eq_bench.playing import Played, Playthrough, played_as_dict
from evaluation.eq_bench.rating import Rating, normalise, rate
from evaluation.eq_bench.rubric import RubricScore, rubric_score
from evaluation.eq_bench.scenarios import Kind
from evaluation.files import EvaluationDataError, shown, write_json
from evaluation.json_files import read_json_value

MODELS_FOLDER = "models"
STANDINGS_FILE = "standings.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """One model of the folder: what it played, and its rubric score by the judge of its own run."""

    name: str
    played: tuple[Played, ...]
    rubric: RubricScore
    unfinished: int
    judge: str


@dataclass(frozen=True, slots=True)
class Standings:
    """Ratings of all models, the best first; `unreadable` comparisons made no match.

    `played_matches` counts a model's matches; one that has none still has the rating that all begin with.
    """

    models: Mapping[str, Kept]
    ratings: Mapping[str, Rating]
    comparisons: Sequence[Comparison]
    played_matches: Mapping[str, int]
    unreadable: int
    anchored: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "protocol": "EQ-Bench 3",
            "models": {name: self._model(name) for name in self.ratings},
            "comparisons": len(self.comparisons),
            "matches": sum(self.played_matches.values()) // 2,
            "unreadable_comparisons": self.unreadable,
            "anchored": self.anchored,
        }

    def _model(self, name: str) -> dict[str, Any]:
        kept, rating = self.models[name], self.ratings[name]
        return {
            "rubric": kept.rubric.score,
            "rubric_by": kept.judge,
            "tasks": kept.rubric.tasks,
            "unreadable_marks": kept.rubric.unparseable,
            "unfinished": kept.unfinished,
            "matches": self.played_matches[name],
            "elo": rating.mu,
            "elo_interval": rating.interval,
        }


def check_model(folder: Path, name: str, address: str) -> None:
    """See that `name` is new in `folder`, or the same model, before its run is replaced.

    Args:
        address: see `evaluation.model_choice.ModelChoice.address`.

    Raises:
        EvaluationDataError: two models whose folders have one name, `hf` for example.
    """
    path = folder / MODELS_FOLDER / f"{name}.json"
    found = read_json_value(path) if path.is_file() else None
    before = found.get("address", address) if isinstance(found, dict) else address
    if before != address:
        raise EvaluationDataError(f"{path} is of {before}, not of {address}; give this model another --name")


def save_model(
    folder: Path, name: str, played: Playthrough, marked: MarkedTasks, judge: str, address: str = ""
) -> Kept:
    """Keep a run; errors as `write_json`."""
    rubric = rubric_score(list(marked.marks.values()))
    tasks = [{**played_as_dict(task), "marks": marked.marks[task.scenario]} for task in played.played]
    record = {
        "model": name,
        "address": address,
        "judge": judge,
        "rubric": rubric.score,
        "unfinished": dict(played.unfinished),
        "unreadable_marks": dict(marked.unreadable),
        "failed_marks": dict(marked.failed),
        "tasks": tasks,
    }
    path = folder / MODELS_FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return Kept(name, played.played, rubric, len(played.unfinished), judge)


def read_models(folder: Path) -> dict[str, Kept]:
    """The models that were kept in `folder`, by name; none where there is no such folder.

    Raises:
        EvaluationDataError: a file that was not written by `save_model`, or was changed since.
    """
    return {path.stem: _kept(path) for path in sorted((folder / MODELS_FOLDER).glob("*.json"))}


def _kept(path: Path) -> Kept:
    record = read_json_value(path)
    try:
        tasks = [_played(task) for task in record["tasks"]]
        marks = [task["marks"] for task in record["tasks"]]
        return Kept(path.stem, tuple(tasks), rubric_score(marks), len(record["unfinished"]), str(record["judge"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvaluationDataError(
            f"{path}: not a model's run as `rapport evaluate eq-bench3` keeps it ({type(error).__name__}: "
            f"{shown(str(error))}); remove it, and its model is played again from the cache"
        ) from error


def _played(task: Mapping[str, Any]) -> Played:
    prompts, asked, replies = (tuple(map(str, task[key])) for key in ("prompts", "asked", "replies"))
    if not len(prompts) == len(asked) == len(replies) > 0:
        raise ValueError(f"scenario {task['scenario']!r} has {len(asked)} questions and {len(replies)} replies")
    return Played(str(task["scenario"]), Kind(task["kind"]), prompts, asked, replies, str(task["debrief"]))


def standings_of(
    models: Mapping[str, Kept], comparisons: Sequence[Comparison], anchors: Mapping[str, float]
) -> Standings:
    """Rate all models.

    Raises:
        EvaluationDataError: an anchor that is not among them, or anchors that `normalise` refuses.
    """
    if unknown := sorted(anchors.keys() - models.keys()):
        raise EvaluationDataError(f"--anchor {unknown[0]}: no such model; there are {', '.join(models)}")
    matches, unreadable = matches_of(comparisons)
    means = rate(list(models), matches)
    spread = rate(list(models), matches_of(comparisons, BINS_FOR_INTERVALS)[0])
    rated = {name: Rating(means[name].mu, spread[name].sigma) for name in models}
    ratings = normalise(rated, anchors)
    order = sorted(ratings, key=lambda name: -ratings[name].mu)
    ordered = {name: ratings[name] for name in order}
    played = {name: sum(name in (match.winner, match.loser) for match in matches) for name in models}
    return Standings(models, ordered, comparisons, played, unreadable, len(anchors) == 2)
