"""The model card of a preference stage, README.md in its folder."""

from __future__ import annotations

from rl.files import write_atomically
from sft.dpo.preparing import PreparedDpo
from sft.model_card import LIMITS
from sft.tracking import read_metrics


def write_dpo_card(prepared: PreparedDpo, best: float, best_step: int, steps: int) -> None:
    """Write README.md into the run's folder."""
    parts = [
        f"# {prepared.config.name}",
        "Preference optimisation (DPO, arXiv 2305.18290) of a model from Rapport.",
        "## Start and data",
        _data(prepared),
        "## Settings",
        _settings(prepared, steps),
        "## Results on the dev pairs",
        _results(prepared, best, best_step),
        "![Curves](curves.png)",
        "## Limits",
        LIMITS + "The heads were kept as they were while the adapter below them moved; measure them again.",
    ]
    write_atomically(prepared.folder.path / "README.md", "\n\n".join(part.strip() for part in parts) + "\n")


def _data(prepared: PreparedDpo) -> str:
    start, config = prepared.start, prepared.config
    lines = [f"- Start: `{start.name}`, on the base `{config.model.path}`; the licences of both apply"]
    data = start.config.data
    named = [place for place in (data.folder, data.esconv, data.empathetic_dialogues) if place]
    if start.adapter is not None and named:
        lines.append(
            f"- **Its fine-tuning read {', '.join(f'`{place}`' for place in named)}**: where that held ESConv or "
            "EmpatheticDialogues, these weights are for non-commercial use only"
        )
    train, dev = prepared.train, prepared.dev
    lines.append(
        f"- Pairs: `{config.pairs.source}`, {len(train.pairs)} for training and {len(dev.pairs)} for the dev loss, "
        f"whole conversations apart; {prepared.bad} bad records and {train.too_long + dev.too_long} too long left out. "
        "Their licence applies"
    )
    return "\n".join(lines)


def _settings(prepared: PreparedDpo, steps: int) -> str:
    config = prepared.config
    loss, optimizer = config.loss, config.optimizer
    reference = "the base with the adapter off" if prepared.start.adapter is None else "a frozen copy of its adapter"
    return "\n".join(
        [
            f"- Reference: {reference}",
            f"- beta {loss.beta:g}, label smoothing {loss.label_smoothing:g}, safety margin {loss.safety_margin:g}",
            f"- AdamW: learning rate {optimizer.lr:g}, warm-up {optimizer.warmup:g}, decay {optimizer.decay.value}; "
            f"{steps} steps of {optimizer.batch} x {optimizer.accumulation} pairs; no dropout; seed {config.seed}",
        ]
    )


def _results(prepared: PreparedDpo, best: float, best_step: int) -> str:
    records = read_metrics(prepared.folder.path / "metrics.jsonl")
    found = next((r for r in records if r["step"] == best_step and "dev/loss" in r), None)
    if found is None:
        return "Not measured."
    rows = [f"| {name.removeprefix('dev/')} | {value:.4f} |" for name, value in found.items() if name != "step"]
    head = f"The best dev loss, {best:.4f}, after step {best_step} (log 2 = 0.6931 is that of no preference):"
    return "\n".join([head, "", "| measure | value |", "|---|---|", *rows])
