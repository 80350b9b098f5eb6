"""The report of `rapport scorer eval` for a terminal."""

from __future__ import annotations

import math

from rich.console import Group
from rich.table import Table
from rich.text import Text

from reward_servers.turn_scorers.measuring import Figure, Metric, Report
from reward_servers.turn_scorers.recipe import REPORTED

_HEADINGS = {
    Metric.MAE: "MAE ↓",
    Metric.SPEARMAN: "Spearman ↑",
    Metric.SPEARMAN_ORIGINAL: "within originals ↑",
    Metric.EMOTION: "emotion acc. ↑",
}


def eval_tables(report: Report) -> Group:
    """Figures with intervals and the published values, then the published orders and what became of them."""
    title = f"{report.replies} test replies of {report.conversations} conversations; 95 % intervals over conversations"
    figures = Table("variant", "seeds", *_HEADINGS.values(), "latency ms", title=title, title_justify="left")
    for variant, own in report.figures.items():
        latency = report.latencies[variant]
        cells = [_cell(own[metric], REPORTED[variant].get(metric)) for metric in Metric]
        times = Text(f"{latency.median_ms:.1f}\n").append(f"p95 {latency.p95_ms:.1f}", style="dim")
        figures.add_row(variant.value, ", ".join(map(str, report.seeds[variant])), *cells, times)
    figures.caption = "sd: between seeds. Published: RoBERTa-base, other labels; held against, not compared with"
    orders = Table("published", "by", "gain here", "verdict", title="The published order, tested", title_justify="left")
    for order in report.orders:
        gain = f"{order.gain.value:+.3f} [{order.gain.low:+.3f}, {order.gain.high:+.3f}]"
        orders.add_row(f"{order.better} before {order.worse}", _HEADINGS[order.metric], gain, order.verdict.value)
    orders.caption = "The interval is over conversations; a difference below the spread between seeds means little."
    return Group(figures, orders)


def _cell(figure: Figure, published: float | None) -> Text:
    text = Text(_number(figure.value) + "\n")
    text.append(f"{_number(figure.low)} {_number(figure.high)}\nsd {_number(figure.between_seeds)}", style="dim")
    if published is not None:
        text.append(f"\npublished {_number(published)}", style="dim")
    return text


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
