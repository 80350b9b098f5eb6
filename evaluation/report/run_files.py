"""A run as its folder holds it: configuration, metrics, samples, held-out evaluations, closing table.

Only files are read, so a report can be made on a machine that has neither the model nor Ray, from a copied folder, and
while the run still goes on: what is not there yet is named in `Run.missing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from dialogue.tactics import TACTICS, Tactic
from evaluation.report.json_files import Record, ReportError, read_json, read_jsonl
from reward_servers.protocol import Dimension

T = TypeVar("T")

HONEST = "honest"  # the name of the human reply among the probes of a closing table


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply, sampled in training or held out.

    Attributes:
        prompt_id: `<conversation id>/<turn index>`.
        seeker: the message that it answers.
        sentences: S sentences, with the tactics of each in `tactics`; none where the reply is empty.
        dimensions: the six of `Dimension`, 1 to 5, in that order; None where the reply is empty.
        raw: components of the reward before scaling within the group; None where the reply is empty.
        scaled: the same after scaling; None also for held-out replies, which have no reward of their own.
        previous: tactics of the supporter's previous turn; None where unknown or there is no such turn.
        policy_version: updates behind the weights that wrote it; None for held-out replies.
    """

    step: int
    prompt_id: str
    seeker: str
    text: str
    tokens: int
    truncated: bool
    leaked: bool
    sentences: tuple[str, ...]
    tactics: tuple[tuple[Tactic, ...], ...]
    dimensions: tuple[float, ...] | None
    raw: Mapping[str, float] | None
    reward: float | None = None
    scaled: Mapping[str, float] | None = None
    length_factor: float | None = None
    trained: bool = False
    policy_version: int | None = None
    previous: tuple[Tactic, ...] | None = None

    @property
    def empty(self) -> bool:
        return self.raw is None

    @property
    def distinct_tactics(self) -> frozenset[Tactic]:
        return frozenset(tactic for tactics in self.tactics for tactic in tactics)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All replies to the held-out prompts after `step` updates."""

    step: int
    replies: tuple[Reply, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One measure before and after training, and the 95 % interval of the difference; None where it is not a mean."""

    name: str
    before: float
    after: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Probe:
    """What the scorer gives to one way of cheating, and the share of turns where that is below the honest reply."""

    name: str
    empathy: float
    below_honest: float


@dataclass(frozen=True, slots=True)
class Closing:
    """The closing table: before against after on held-out prompts."""

    before_step: int
    after_step: int
    prompts: int
    changes: tuple[Change, ...]
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a report says about one run.

    Attributes:
        metrics: one mapping per line of metrics.jsonl, `step` among the names.
        samples: every rollout trained on, in the order of the file.
        evaluations: sorted by step.
        missing: what is not there, each a sentence for the reader of the page.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    metrics: tuple[Mapping[str, float], ...]
    samples: tuple[Reply, ...]
    evaluations: tuple[Evaluation, ...]
    closing: Closing | None
    missing: tuple[str, ...]

    def setting(self, key: str, default: Any = None) -> Any:
        """A value of the configuration by its dotted key."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric, in order."""
        lines = [(int(line["step"]), line[name]) for line in self.metrics if name in line]
        return [step for step, _ in lines], [value for _, value in lines]

    @property
    def steps_done(self) -> int:
        return max((int(line["step"]) for line in self.metrics), default=0)


def read_run(folder: Path) -> Run:
    """Read the folder of a run, finished or not.

    Raises:
        ReportError: it is no run's folder, nothing was written yet, or a file in it is damaged.
    """
    config = _config(folder)
    missing: list[str] = []
    metrics = _lines(folder / "metrics.jsonl", _metrics_line, missing)
    samples = _lines(folder / "samples.jsonl", _sample, missing)
    evaluations = [_evaluation(read_json(path)) for path in sorted(folder.glob("evaluation-*.json"))]
    if not metrics and not samples and not evaluations:
        raise ReportError(f"{folder}: nothing was measured yet; wait for the first step, or see {folder}/train.log")
    closing = folder / "closing.json"
    if not closing.is_file():
        missing.append(_why_no_closing(config, evaluations))
    if not evaluations:
        missing.append("There is no held-out evaluation, so nothing is shown of conversations the model never saw.")
    return Run(
        name=str(config.get("name") or folder.resolve().name),
        folder=folder,
        config=config,
        metrics=tuple(metrics),
        samples=tuple(samples),
        evaluations=tuple(sorted(evaluations, key=lambda evaluation: evaluation.step)),
        closing=_closing(read_json(closing)) if closing.is_file() else None,
        missing=tuple(missing),
    )


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs, those that share a name (one preset run in two places) named by their folders as they were given.

    Raises:
        ReportError: two of them are the same folder.
    """
    folders = [run.folder.resolve() for run in runs]
    if twice := [run.folder for run in runs if folders.count(run.folder.resolve()) > 1]:
        raise ReportError(f"{twice[0]}: given twice; a comparison needs different runs")
    names = [run.name for run in runs]
    return [replace(run, name=str(run.folder)) if names.count(run.name) > 1 else run for run in runs]


def _config(folder: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    path = folder / "config.yaml"
    if not path.is_file():
        reason = "there is no config.yaml in it" if folder.is_dir() else "there is no such folder"
        raise ReportError(f"{folder}: not a run, {reason}; give the folder of a run, such as runs/quickstart")
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: cannot be read ({' '.join(str(error).split())}); restore the file") from error
    if not isinstance(config, dict):
        raise ReportError(f"{path}: expected the configuration of a run, found a list")
    if "rollout" not in config:
        raise ReportError(
            f"{path}: not the configuration of a run of `rapport train`, which a report is about; a fine-tuning run "
            "has its README.md and curves.png instead"
        )
    return {str(key): value for key, value in config.items()}


def _lines(path: Path, parse: Callable[[Record], T], missing: list[str]) -> list[T]:
    if not path.is_file():
        missing.append(f"{path.name} is not there: no training step was finished.")
        return []
    records, cut_off = read_jsonl(path)
    if cut_off:
        missing.append(
            f"The last line of {path.name} is incomplete (the run was killed or is writing): it is left out."
        )
    return [parse(record) for record in records]


def _why_no_closing(config: Mapping[str, Any], evaluations: Iterable[Evaluation]) -> str:
    if not list(evaluations):
        return "closing.json is not there: the comparison of before and after is missing."
    return (
        "closing.json is not there: the run has not finished, so the comparison of before and after is missing. Start "
        f"the run {config.get('name', '')!s} again and it goes on from its last checkpoint."
    )


def _metrics_line(record: Record) -> dict[str, float]:
    record.whole("step")
    return {name: record.number(name) for name in record.values}


def _sample(record: Record) -> Reply:
    dimensions = record.numbers("empathy")
    return Reply(
        **_common(record),
        step=record.whole("step"),
        dimensions=_six(record, dimensions) if dimensions is not None else None,
        reward=record.number("reward"),
        scaled=record.numbers("scaled"),
        length_factor=record.number("length_factor"),
        trained=record.flag("trained"),
        policy_version=record.whole("policy_version"),
    )


def _common(record: Record) -> dict[str, Any]:
    """What training samples and held-out replies write alike."""
    previous = _previous(record)
    sentences, tactics = record.items("sentences"), record.items("sentence_tactics")
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise record.wrong("sentences", "a list of texts")
    if len(sentences) != len(tactics):
        raise record.wrong("sentence_tactics", f"{len(sentences)} lists, one for each sentence")
    raw = record.numbers("raw")
    if raw is not None and "quality" not in raw:
        raise record.wrong("raw", 'null or an object that holds "quality"')
    return {
        "prompt_id": record.text("prompt_id"),
        "seeker": record.text("seeker"),
        "text": record.text("text"),
        "tokens": record.whole("tokens"),
        "truncated": record.flag("truncated"),
        "leaked": record.flag("leaked"),
        "sentences": tuple(sentences),
        "tactics": tuple(_tactics(record, names) for names in tactics),
        "raw": raw,
        "previous": previous,
    }


def _tactics(record: Record, names: object) -> tuple[Tactic, ...]:
    if not isinstance(names, list) or not all(name in tuple(Tactic) for name in names):
        raise record.wrong("sentence_tactics", f"lists of these names: {', '.join(TACTICS)}")
    return tuple(Tactic(name) for name in names)


def _six(record: Record, dimensions: Mapping[str, float]) -> tuple[float, ...]:
    if set(dimensions) != set(Dimension):
        raise record.wrong("empathy", f"null or an object of {', '.join(Dimension)}")
    return tuple(dimensions[dimension] for dimension in Dimension)


def _evaluation(record: Record) -> Evaluation:
    step = record.whole("step")
    return Evaluation(step, tuple(_held_out(reply, step) for reply in record.records("replies")))


def _held_out(record: Record, step: int) -> Reply:
    dimensions = record.values.get("dimensions")
    if dimensions is not None and (
        not isinstance(dimensions, list)
        or len(dimensions) != len(Dimension)
        or not all(isinstance(value, int | float) for value in dimensions)
    ):
        raise record.wrong("dimensions", f"null or {len(Dimension)} numbers")
    return Reply(
        **_common(record),
        step=step,
        dimensions=tuple(dimensions) if dimensions is not None else None,
    )


def _previous(record: Record) -> tuple[Tactic, ...] | None:
    """The tactics of the supporter's previous turn; the samples of older runs do not tell."""
    counts = record.values.get("previous_counts")
    if counts is None:
        return None
    if not isinstance(counts, list) or len(counts) != len(TACTICS) or not all(isinstance(n, int) for n in counts):
        raise record.wrong("previous_counts", f"null or {len(TACTICS)} counts")
    return tuple(t for t, n in zip(TACTICS, counts, strict=True) if n > 0)


def _closing(record: Record) -> Closing:
    return Closing(
        before_step=record.whole("before_step"),
        after_step=record.whole("after_step"),
        prompts=record.whole("prompts"),
        changes=tuple(map(_change, record.records("changes"))),
        probes=tuple(
            Probe(probe.text("name"), probe.number("empathy"), probe.number("below_honest"))
            for probe in record.records("probes")
        ),
    )


def _change(record: Record) -> Change:
    interval = record.values.get("interval")
    if interval is not None and (
        not isinstance(interval, list) or len(interval) != 2 or not all(isinstance(x, int | float) for x in interval)
    ):
        raise record.wrong("interval", "null or two numbers")
    bounds = (float(interval[0]), float(interval[1])) if interval is not None else None
    return Change(record.text("name"), record.number("before"), record.number("after"), bounds)
