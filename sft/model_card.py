"""The model card of a run, README.md in its folder: base, data and their licences, settings, results, limits."""

from __future__ import annotations

from rl.files import write_atomically
from sft.config import Quantisation
from sft.examples import Source
from sft.mixing import mixing_shares
from sft.preparing import Prepared
from sft.tracking import read_metrics

LICENCES = {
    Source.EMPATHETIC_DIALOGUES: "CC BY-NC 4.0",
    Source.ESCONV: "CC BY-NC 4.0",
    Source.GOEMOTIONS: "CC BY 4.0",
    Source.OWN: "Apache-2.0 where shipped with Rapport; otherwise that of the file given",
}

LIMITS = """\
This model is not a therapist and must not be presented as one. Nothing in this run shows that it is safe for people in
crisis. The emotion and strategy heads give probabilities over fixed lists of labels; they can be wrong and sure.
"""


def write_model_card(prepared: Prepared, best: float, best_step: int, steps: int) -> None:
    """Write README.md into the run's folder."""
    parts = [
        f"# {prepared.config.name}",
        _notice(prepared),
        "## Base and adapter",
        _settings(prepared, steps),
        "## Data",
        _data(prepared),
        "## Results on the dev sequences",
        _results(prepared, best, best_step),
        "![Loss curves](curves.png)",
        "## Limits",
        LIMITS,
    ]
    write_atomically(prepared.folder.path / "README.md", "\n\n".join(part.strip() for part in parts) + "\n")


def _notice(prepared: Prepared) -> str:
    limited = [source.value for source in prepared.corpus.sizes if source.non_commercial]
    if not limited:
        return "Trained on no data that is known to be for non-commercial use only."
    return f"**Non-commercial use only**: trained on {', '.join(limited)}. Do not ship these weights in a product."


def _settings(prepared: Prepared, steps: int) -> str:
    config = prepared.config
    lora, optimizer, losses = config.model.lora, config.optimizer, config.losses
    joint = " + ".join(f"{losses.of(loss):g} {loss.value}" for loss in prepared.losses)
    kept = "" if config.model.quantisation is Quantisation.none else f", kept in {config.model.quantisation.value}"
    return "\n".join(
        [
            f"- Base: `{config.model.path}` (its own licence applies){kept}",
            f"- LoRA: rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout:g}, on "
            + ", ".join(lora.target_modules),
            f"- Joint loss: {joint}; safety temperature {config.safety.tau:g}, scope {config.safety.scope.value}",
            f"- AdamW: learning rate {optimizer.lr:g} (heads {optimizer.head_lr:g}), warm-up {optimizer.warmup:g}, "
            f"decay {optimizer.decay.value}; {steps} steps of {optimizer.batch} x {optimizer.accumulation} sequences; "
            f"seed {config.seed}",
        ]
    )


def _data(prepared: Prepared) -> str:
    shares = mixing_shares(prepared.corpus.sizes, prepared.config.data.alpha)
    lines = ["| source | sequences | share of draws | licence |", "|---|---|---|---|"]
    for source, size in prepared.corpus.sizes.items():
        lines.append(f"| {source.value} | {size} | {shares[source]:.1%} | {LICENCES[source]} |")
    return "\n".join(lines)


def _results(prepared: Prepared, best: float, best_step: int) -> str:
    records = read_metrics(prepared.folder.path / "metrics.jsonl")
    found = next((r for r in records if r["step"] == best_step and "dev/loss" in r), None)
    if found is None:
        return "Not measured."
    rows = [f"| {name.removeprefix('dev/')} | {value:.4f} |" for name, value in found.items() if name != "step"]
    head = f"The best dev loss, {best:.4f}, after step {best_step}, on {len(prepared.dev)} sequences:"
    return "\n".join([head, "", "| measure | value |", "|---|---|", *rows])
