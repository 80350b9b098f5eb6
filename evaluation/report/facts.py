"""What a run was: its settings in words, for the page and the model card."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.report.palette import spoken
from evaluation.report.run_files import Run


@dataclass(frozen=True, slots=True)
class Facts:
    """A run in words.

    Attributes:
        summary: one line.
        table: names and values for people.
    """

    summary: str
    table: tuple[tuple[str, str], ...]


# Short names of models that Rapport reads from a 4-bit file: results with them are not results of the released weights.
_DEQUANTISED = ("smollm2-135m",)


def is_dequantised(run: Run) -> bool:
    """Whether the run began with weights that were made from a 4-bit file."""
    return run.setting("model.path", "") in _DEQUANTISED


def facts_of(run: Run) -> Facts:
    rank = run.setting("model.lora.rank", 0)
    method = f"LoRA of rank {rank}" if rank else "all weights trained"
    method = f"dequantised from 4 bits, {method}" if is_dequantised(run) else method
    reward = spoken(str(run.setting("reward.mode", "unknown")))
    per_step = f"{run.setting('prompts_per_step', '?')} prompts x {run.setting('rollout.n', '?')} replies"
    steps = f"{run.steps_done} of {planned}" if (planned := run.setting("steps", 0)) else str(run.steps_done)
    return Facts(
        summary=f"{run.setting('model.path', 'unknown model')}, {steps} steps of {per_step}, {reward}",
        table=(
            ("Model", f"{run.setting('model.path', 'unknown')}, {method}"),
            ("Conversations", f"{run.setting('data.path', 'unknown')}, {_share(run)} held out"),
            ("System prompt", spoken(str(run.setting("data.system_prompt", "unknown")))),
            ("Warm start", _warm_start(run)),
            ("Steps", f"{steps}, each {per_step}"),
            ("Sampling", f"temperature {run.setting('rollout.temperature', '?')}, "
             f"at most {run.setting('rollout.max_response_tokens', '?')} tokens"),
            ("Reward", f"{reward}; {_weights(run)}"),
            ("Learning", f"{run.setting('learner.loss.advantage', '?')}, rate {run.setting('learner.lr', '?')}, "
             f"KL weight {run.setting('learner.loss.kl_coef', '?')}"),
            ("Seed", str(run.setting("seed", "unknown"))),
        ),
    )  # fmt: skip


def _share(run: Run) -> str:
    fraction = run.setting("data.holdout_fraction", 0.0)
    return f"{100 * fraction:.0f} %" if isinstance(fraction, int | float) else "an unknown share"


def _warm_start(run: Run) -> str:
    epochs = run.setting("warm_start.epochs", 0)
    return f"{epochs} epoch(s) of language modelling on the training side" if epochs else "none"


def _weights(run: Run) -> str:
    names = {"kl": "D_KL", "entropy": "H", "bigram": "pairs", "trigram": "triples"}
    used = [f"{run.setting(f'reward.gamma_{key}')} {name}" for key, name in names.items()
            if run.setting(f"reward.gamma_{key}", 0.0)]  # fmt: skip
    return f"diversity weight {run.setting('reward.weight', '?')} on {' + '.join(used) or 'nothing'}"
