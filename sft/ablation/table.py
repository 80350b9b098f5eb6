"""The table and the plot of an ablation: means over seeds with intervals, and differences from the full run by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sft.ablation.variants import Variant
from sft.measuring.measures import Measures

Results = Mapping[tuple[Variant, int], Measures]
"""What is finished, by variant and seed."""

Baselines = Mapping[str, Measures]
"""What the heads are compared with, by the name that is shown."""

NAMES = {
    "lm_loss": "LM loss",
    "safety_kl": "safety KL",
    "emotion_accuracy": "emotion accuracy",
    "emotion_f1": "emotion macro F1",
    "strategy_accuracy": "strategy accuracy",
    "strategy_f1": "strategy macro F1",
    "tokens_per_s": "tokens/s",
}
_DIGITS = {"lm_loss": 4, "safety_kl": 4, "tokens_per_s": 0}
_CONFIDENCE = 0.95
_ABREAST = 3


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean over seeds. `half`: half the width of its 95 % interval, None for a single seed."""

    mean: float
    half: float | None
    values: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """Student's t interval of the mean: half = t(0.975, n - 1) s / sqrt(n), s with n - 1 in its denominator."""
    from scipy.stats import t

    count = len(values)
    half = None
    if count > 1:
        quantile = float(t.ppf((1 + _CONFIDENCE) / 2, count - 1))
        half = quantile * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Spread(float(np.mean(values)), half, tuple(values))


def summarise(results: Results) -> dict[Variant, dict[str, Spread]]:
    """Of each variant with a finished run, its measures."""
    found: dict[Variant, dict[str, Spread]] = {}
    for variant in Variant:
        runs = [measures for (of, _), measures in sorted(results.items()) if of is variant]
        for name in (field.name for field in fields(Measures)):
            values = [value for run in runs if (value := getattr(run, name)) is not None]
            if values:
                found.setdefault(variant, {})[name] = spread(values)
    return found


def differences(results: Results) -> dict[Variant, dict[str, Spread]]:
    """Of each variant, its measures less those of the full run with the same seed, where both are finished."""
    found: dict[Variant, dict[str, Spread]] = {}
    for variant in Variant:
        pairs = [(run, results[Variant.FULL, seed]) for (of, seed), run in sorted(results.items())
                 if of is variant is not Variant.FULL and (Variant.FULL, seed) in results]  # fmt: skip
        for name in NAMES:
            both = [(getattr(one, name), getattr(full, name)) for one, full in pairs]
            values = [one - full for one, full in both if one is not None and full is not None]
            if values:
                found.setdefault(variant, {})[name] = spread(values)
    return found


def as_markdown(results: Results, baselines: Baselines, title: str, note: str) -> str:
    """The whole report: measures, then differences."""
    lines = [f"# {title}", "", note, "", *_table(summarise(results), signed=False)]
    for said, baseline in baselines.items():
        lines.append(_row(said, {name: _plain(name, getattr(baseline, name)) for name in NAMES}))
    apart = differences(results)
    if apart:
        lines += ["", "Differences from the full run with the same seed:", "", *_table(apart, signed=True)]
    return "\n".join(lines) + "\n"


def as_json(results: Results, baselines: Baselines) -> dict[str, Any]:
    def plain(found: Mapping[Variant, Mapping[str, Spread]]) -> dict[str, Any]:
        return {
            variant.value: {
                name: {"mean": s.mean, "half": s.half, "values": list(s.values)} for name, s in measures.items()
            }
            for variant, measures in found.items()
        }

    return {
        "confidence": _CONFIDENCE,
        "variants": plain(summarise(results)),
        "differences": plain(differences(results)),
        "baselines": {said: baseline.as_dict() for said, baseline in baselines.items()},
        "runs": [
            {"variant": variant.value, "seed": seed, **run.as_dict()}
            for (variant, seed), run in sorted(results.items())
        ],
    }


def draw(results: Results, baselines: Baselines, picture: Path) -> None:
    """One panel for each measure: a point for each seed, the mean with its interval, each baseline as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = summarise(results)
    shown = [name for name in NAMES if any(name in measures for measures in found.values())]
    lines, columns = math.ceil(len(shown) / _ABREAST), min(len(shown), _ABREAST)
    figure = Figure(figsize=(3.6 * columns, 3.2 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for unused in panels[len(shown) :]:
        unused.set_axis_off()
    for panel, name in zip(panels, shown, strict=False):
        for place, variant in enumerate(found):
            if name in found[variant]:
                one = found[variant][name]
                panel.plot([place] * len(one.values), one.values, ".", color="0.6")
                panel.errorbar(place, one.mean, yerr=one.half, fmt="o", capsize=4)
        values = {said: getattr(baseline, name) for said, baseline in baselines.items()}
        for style, (said, line) in zip(("--", ":", "-."), values.items(), strict=False):
            if line is not None:
                panel.axhline(line, linestyle=style, color="0.4", label=said)
                panel.legend(fontsize="small")
        panel.set_xticks(range(len(found)), [variant.value for variant in found], rotation=40, ha="right")
        panel.set_title(NAMES[name])
    temporary = picture.with_name(f".{picture.name}.writing")
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(picture)


def _table(found: Mapping[Variant, Mapping[str, Spread]], signed: bool) -> list[str]:
    head = [_row("variant", NAMES), _row("---", dict.fromkeys(NAMES, "---:"))]
    return head + [
        _row(variant.value, {name: _cell(name, measures.get(name), signed) for name in NAMES})
        for variant, measures in found.items()
    ]


def _row(first: str, cells: Mapping[str, str]) -> str:
    return f"| {first} | {' | '.join(cells[name] for name in NAMES)} |"


def _cell(name: str, value: Spread | None, signed: bool) -> str:
    if value is None:
        return "-"
    digits = _DIGITS.get(name, 3)
    shown = f"{value.mean:+.{digits}f}" if signed else f"{value.mean:.{digits}f}"
    return shown if value.half is None else f"{shown} ± {value.half:.{digits}f}"


def _plain(name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.{_DIGITS.get(name, 3)}f}"
