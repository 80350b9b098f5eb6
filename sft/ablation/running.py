"""`rapport sft ablate`: the runs of an ablation one after another, and their table.

    <output_dir>/<name>-ablation/
        full-seed0/ no-emotion-seed0/ ...   runs like any other, each with measures.json once it is finished
        base.json                               the base's replies, before any of the runs
        probe.json                              the linear probe on the base, see `sft.measuring.probe`
        ablation.md  ablation.json  ablation.png

Resumable: a finished run is read from its measures.json, an interrupted one goes on from its checkpoint. The table is
written after every run, the plot at the end. Seeds may be run side by side, each with a command of its own; a last
command that names all of them finds every run finished and writes the table of all.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from rl.files import write_atomically
from rl.run_lock import only_run_in
from sft.ablation.table import Baselines, as_json, as_markdown, draw
from sft.ablation.variants import Variant, ablation_folder, of_seed, of_variant, planned, variants_of
from sft.base import pick_device
from sft.checkpoint import RunFolder
from sft.config import SftConfig
from sft.corpus import dev_rows, read_examples, rows_of_each, tokenise
from sft.examples import Loss, Split
from sft.measuring.measures import Measures, as_rows, commonest, head_scores, read_where_labelled
from sft.measuring.probe import MAX_ROWS, linear_probe
from sft.measuring.reading import Reader
from sft.model import build_model
from sft.preparing import Prepared, prepare
from sft.saved import load_model
from sft.tokens import TokenSequence
from sft.tracking import read_metrics
from sft.training import train

MEASURES, BASE, PROBE = "measures.json", "base.json", "probe.json"
_LONG = 200  # sequences to read, from which on progress is told


@dataclass(frozen=True, slots=True)
class Ablation:
    """All that can be checked before the first run.

    Attributes:
        prepared: of each variant; the seed and folder of a run are filled in by `run_of`.
        rows: the sequences on which every run is measured, with all labels of the full run.
        baseline: the majority class on them.
        probe_rows: training sequences that the linear probe reads at most.
    """

    config: SftConfig
    seeds: tuple[int, ...]
    split: Split
    prepared: dict[Variant, Prepared]
    rows: list[TokenSequence]
    baseline: Measures
    probe_rows: int = MAX_ROWS

    @property
    def heads(self) -> list[Loss]:
        return [loss for loss in (Loss.EMOTION, Loss.STRATEGY) if self.config.losses.of(loss)]

    @property
    def folder(self) -> Path:
        return ablation_folder(self.config)

    @property
    def steps(self) -> int:
        return self.prepared[Variant.FULL].steps

    def run_of(self, variant: Variant, seed: int) -> Prepared:
        """A run that can start; what was read and tokenised does not depend on the seed."""
        prepared = self.prepared[variant]
        config = of_seed(prepared.config, seed, self.steps)
        return replace(prepared, config=config, folder=RunFolder(config), steps=self.steps)

    def describe(self) -> str:
        rows = f"{len(self.rows)} {self.split.value} sequences"
        count = len(self.prepared) * len(self.seeds)
        names = ", ".join(self.prepared)
        seeds = ", ".join(map(str, self.seeds))
        return f"{count} runs of {self.steps} steps: {names}; seeds {seeds}\nmeasured on {rows}, in {self.folder}"


def prepare_ablation(
    config: SftConfig,
    seeds: Sequence[int],
    split: Split = Split.VALID,
    of_each: int | None = None,
    probe_rows: int = MAX_ROWS,
) -> Ablation:
    """Read and check everything that the runs will need; no weights, nothing is written.

    Args:
        split: of the sequences on which runs are measured. The best step of a run is chosen by its dev loss, on
            `valid`; `test` is free of that choice where the sources have one.
        of_each: at most so many sequences of each source are measured; None for `data.max_dev` of all together.
        probe_rows: training sequences that the linear probe reads at most.

    Raises:
        ConfigError: nothing can be left out, or a run folder holds a run of another configuration.
        DataError: the data cannot be read.
    """
    prepared = {variant: prepare(of_variant(config, variant)) for variant in variants_of(config)}
    full = prepared[Variant.FULL]
    corpus = tokenise(read_examples(config, split), full.chat)
    chosen = dev_rows(corpus, config.data.max_dev) if of_each is None else rows_of_each(corpus, of_each)
    rows = read_where_labelled(chosen)
    heads = [loss for loss in (Loss.EMOTION, Loss.STRATEGY) if config.losses.of(loss)]
    baseline = Measures(**head_scores(commonest(full.corpus, rows, heads)))
    ablation = Ablation(config, tuple(seeds), split, prepared, rows, baseline, probe_rows)
    for seed, variant in planned(list(prepared), seeds):
        ablation.run_of(variant, seed).folder.check()
    return ablation


def run_ablation(ablation: Ablation, say: Callable[[str], None] = print) -> Path:
    """Make what runs are missing, and the table after each.

    Returns:
        The Markdown file.

    Raises:
        ConfigError: another process trains one of the runs.
        Others: what `sft.training.train` raises.
    """
    baselines = {"base": _base(ablation, say), "majority class": ablation.baseline, **_probe(ablation, say)}
    results: dict[tuple[Variant, int], Measures] = {}
    runs = planned(list(ablation.prepared), ablation.seeds)
    for number, (seed, variant) in enumerate(runs, start=1):
        prepared = ablation.run_of(variant, seed)
        known = _known(prepared, ablation)
        say(f"run {number} of {len(runs)}: {variant}, seed {seed}{': finished before' if known else ''}")
        results[variant, seed] = known or _make(prepared, ablation)
        _write(ablation, results, baselines)
    draw(results, baselines, ablation.folder / "ablation.png")
    return ablation.folder / "ablation.md"


def _base(ablation: Ablation, say: Callable[[str], None]) -> Measures:
    """The base as it was before any fine-tuning: what its replies are worth; it has no heads."""
    full = ablation.prepared[Variant.FULL]

    def make() -> Measures:
        model = build_model(full.config, full.base, pick_device()).eval()
        reader = Reader.with_teacher(model, full.chat, full.pad_id, full.config)
        told = _by_tenths(say)
        return reader.read(ablation.rows, partial(told, "base"), as_base=True).measures

    return _once(ablation.folder / BASE, _fingerprint(ablation), "the base, not fine-tuned", make, say)


def _probe(ablation: Ablation, say: Callable[[str], None]) -> dict[str, Measures]:
    """The linear probe under its name, fitted once for all runs; nothing where no head is on."""
    if not ablation.heads:
        return {}
    full = ablation.prepared[Variant.FULL]

    def make() -> Measures:
        model = build_model(full.config, full.base, pick_device())
        size, limit, told = full.config.optimizer.batch, ablation.probe_rows, _by_tenths(say)
        probe = linear_probe(model, full.corpus, ablation.rows, ablation.heads, size, full.pad_id, limit, told)
        return Measures(**head_scores(probe))

    key = f"{_fingerprint(ablation)}, probe of {ablation.probe_rows}"
    return {"linear probe": _once(ablation.folder / PROBE, key, "linear probe on the base's own states", make, say)}


def _once(file: Path, key: str, what: str, make: Callable[[], Measures], say: Callable[[str], None]) -> Measures:
    """What `file` holds of an earlier start, else what `make` gives, kept there."""
    known = _recorded(file, key)
    say(f"{what}{': finished before' if known else ''}")
    if known is None:
        known = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"measured_on": key, "measures": known.as_dict()}, indent=1))
    return known


def _by_tenths(say: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """Progress in some ten lines, where it takes a while."""
    told: set[tuple[str, int]] = set()

    def on_progress(what: str, done: int, of: int) -> None:
        tenth = 10 * done // of
        if of >= _LONG and tenth and (what, tenth) not in told:
            told.add((what, tenth))
            say(f"{what}: {done} of {of} sequences read")

    return on_progress


def _make(prepared: Prepared, ablation: Ablation) -> Measures:
    """Train, measure the best model, and note it."""
    with only_run_in(prepared.folder.path):
        result = train(prepared)
    model = load_model(result.folder / "best").model
    found = Reader.with_teacher(model, prepared.chat, prepared.pad_id, ablation.config).read(ablation.rows).measures
    speeds = [r["tokens_per_s"] for r in read_metrics(result.folder / "metrics.jsonl") if "tokens_per_s" in r]
    found = replace(found, tokens_per_s=statistics.median(speeds))
    record = {"measured_on": _fingerprint(ablation), "best_step": result.best_step, "measures": found.as_dict()}
    write_atomically(result.folder / MEASURES, json.dumps(record, indent=1))
    return found


def _known(prepared: Prepared, ablation: Ablation) -> Measures | None:
    """The measures of a finished run; None where it is not finished, or was measured on other sequences."""
    return _recorded(prepared.folder.path / MEASURES, _fingerprint(ablation))


def _recorded(file: Path, key: str) -> Measures | None:
    if not file.is_file():
        return None
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if record["measured_on"] != key or record["measures"].keys() != Measures().as_dict().keys():
        return None  # of other sequences, or by a version that measured other things
    return Measures(**record["measures"])


def _fingerprint(ablation: Ablation) -> str:
    """Of the sequences and labels that runs are measured on."""
    found = sha256()
    for row in ablation.rows:
        found.update(repr((row.ids, row.replies, row.emotions, row.strategies, sorted(row.losses))).encode())
    return found.hexdigest()


def _write(ablation: Ablation, results: dict[tuple[Variant, int], Measures], baselines: Baselines) -> None:
    config = ablation.config
    turns = " and ".join(_labelled(loss, ablation.rows) for loss in (Loss.EMOTION, Loss.STRATEGY))
    note = (
        f"{len(results)} of {len(ablation.prepared) * len(ablation.seeds)} runs of `{config.model.path}`, "
        f"{ablation.steps} steps of {config.optimizer.batch} x {config.optimizer.accumulation} sequences each; the "
        f"best model by dev loss, on {len(ablation.rows)} {ablation.split.value} sequences, {turns}. Seeds "
        f"{', '.join(map(str, ablation.seeds))}; ± half of the 95 % interval of their mean (Student's t); tokens/s in "
        "training. A variant without a head reads no examples that feed this head alone, and more of the others. "
        f"The linear probe reads at most {ablation.probe_rows:,} training sequences."
    )
    text = as_markdown(results, baselines, f"Ablation of {config.name}", note)
    write_atomically(ablation.folder / "ablation.md", text)
    record = as_json(results, baselines)
    write_atomically(ablation.folder / "ablation.json", json.dumps(record, indent=1))


def _labelled(loss: Loss, rows: Sequence[TokenSequence]) -> str:
    sources = sorted({row.source.value for row in rows if loss in row.losses})
    return f"{len(as_rows(loss, rows))} turns with {loss.value} labels ({', '.join(sources) or 'no source'})"
