"""A made-up run, small enough to know by heart, with every kind of fault in it and replies that attack the page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dialogue.loaders import load_conversations
from reward_servers.protocol import Dimension

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)> & \u2028 it's \"quoted\"."
QUIET = "That sounds hard. What helps you rest?"
LOOP = "You can do it now. You can do it now. You can do it now."
TALK = load_conversations("starter")[0]
PROMPT = f"{TALK.id}/3"  # its history is in the shipped data
STRANGER = "nobody-knows-this/1"


def sample(step: int, rollout: int, prompt: str, text: str, reward: float, **other: Any) -> dict[str, Any]:
    """One line of samples.jsonl; sentences are cut at `. ` and have no tactic unless told."""
    sentences = other.pop("sentences", [text] if text else [])
    dismissing = other.pop("dismissing", 1.5)
    raw = {"quality": 3.0 + reward, "d_kl": 0.5, "entropy": 0.7, "bigram": 1.0, "trigram": 2.0} if text else None
    return {
        "step": step,
        "prompt_id": prompt,
        "rollout": rollout,
        "seeker": TALK.turns[2].text if prompt == PROMPT else "My cat is ill & I <cannot> sleep.",
        "previous_counts": [0, 0, 0, 1, 0, 0, 0, 0, 0, 0] if prompt == PROMPT else None,
        "text": text,
        "tokens": len(text.split()) + 1,
        "stop_reason": "eos",
        "policy_version": step - 1,
        "trained": True,
        "reward": reward,
        "raw": raw,
        "scaled": {name: 0.5 for name in raw} if raw else None,
        "length_factor": 1.0,
        "leaked": False,
        "truncated": False,
        "empty": not text,
        "empathy": {d.value: 2.0 for d in Dimension} | {"dismissing_emotions": dismissing} if text else None,
        "sentences": sentences,
        "sentence_tactics": [[] for _ in sentences],
        **other,
    }


def samples() -> list[dict[str, Any]]:
    """Four groups; the third has the largest gain, the first the leak, the second what is degenerate."""
    return [
        sample(1, 0, PROMPT, "Validation: it makes sense.", -1.5, leaked=True, sentence_tactics=[["validation"]]),
        sample(1, 1, PROMPT, QUIET, 0.4, sentences=["That sounds hard.", "What helps you rest?"],
               sentence_tactics=[["validation", "paraphrasing"], ["questioning"]]),
        sample(1, 2, PROMPT, "You could ask them.\n\nOr not?", 0.2, sentences=["You could ask them.", "Or not?"],
               sentence_tactics=[["advice"], []]),
        sample(1, 0, STRANGER, "", -1.0),
        sample(1, 1, STRANGER, LOOP, 0.1, sentences=["You can do it now."] * 3, sentence_tactics=[["empowerment"]] * 3),
        sample(1, 2, STRANGER, "It will be", 0.0, truncated=True, dismissing=4.5),
        sample(2, 0, PROMPT, HOSTILE, -2.0, sentence_tactics=[["information", "reappraisal"]]),
        sample(2, 1, PROMPT, "I hope you rest.", 2.0, sentence_tactics=[["emotional_expression"]]),
        sample(2, 2, PROMPT, "Tell me more?", 1.0, sentence_tactics=[["questioning"]]),
        sample(2, 0, STRANGER, "I am here.", 0.3),
        sample(2, 1, STRANGER, "I am here!", 0.3),
        sample(2, 2, STRANGER, "I had a cat once.", 0.5, sentence_tactics=[["self_disclosure"]]),
    ]  # fmt: skip


def evaluation(step: int, tactic: str, quality: float) -> dict[str, Any]:
    """Two replies to one held-out prompt, whose previous turn had advice and questioning."""
    reply = {
        "prompt_id": PROMPT,
        "seeker": TALK.turns[2].text,
        "text": f"This is step {step}.",
        "tokens": 5,
        "truncated": False,
        "leaked": False,
        "sentences": [f"This is step {step}."],
        "sentence_tactics": [[tactic]],
        "previous_counts": [0, 0, 1, 0, 0, 0, 0, 2, 0, 0],
        "dimensions": [2.0] * 6,
        "raw": {"quality": quality, "d_kl": 1.0, "entropy": 0.0, "bigram": 0.0, "trigram": 0.0},
    }
    other = {**reply, "text": "Rest now.", "sentences": ["Rest now."], "sentence_tactics": [["validation"]]}
    return {"step": step, "unscored": 0, "replies": [reply, other]}


def closing() -> dict[str, Any]:
    def change(name: str, before: float, after: float, interval: list[float] | None) -> dict[str, Any]:
        return {"name": name, "before": before, "after": after, "interval": interval}

    return {
        "before_step": 0,
        "after_step": 2,
        "prompts": 1,
        "changes": [
            change("reward_in_a_joint_group", 0.8, 1.2, [0.2, 0.6]),
            change("empathy", 2.5, 3.25, [0.5, 1.0]),
            change("stickiness", 0.5, 0.25, [-0.5, 0.1]),
            change("tokens", 40.0, 30.0, [-15.0, -5.0]),
            change("advice_giving", 2.0, 2.5, [0.2, 0.8]),
            change("distinct_2", 0.7, 0.6, None),
            change("d_kl", float("nan"), 1.0, [float("nan"), float("nan")]),
        ],
        "probes": [
            {"name": "honest", "empathy": 3.0, "below_honest": 0.0},
            {"name": "comfort_spam", "empathy": 1.2, "below_honest": 0.92},
        ],
    }


def metrics() -> list[dict[str, float]]:
    lines: list[dict[str, float]] = [{"step": 0, "eval/empathy": 2.5}]
    for step in (1, 2):
        line = {"reward/quality": 2.5 + step / 4, "reward/mean": 1.0, "learner/kl": 0.01 * step, "counts/leaked": 0.0}
        lines.append({"step": step, **line, "rollout/tokens_mean": 40.0, "time/learn": 3.0 + step})
    return [*lines, {"step": 2, "eval/empathy": 3.25}]


def write_lines(path: Path, records: Iterable[object]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_run(folder: Path) -> None:
    """A finished run under this folder, whose name is the run's."""
    folder.mkdir()
    (folder / "config.yaml").write_text(
        f"name: {json.dumps(folder.name)}\nseed: 0\nsteps: 2\nprompts_per_step: 2\n"
        "data: {path: starter, holdout_fraction: 0.2, system_prompt: simple}\n"
        "model: {path: smollm2-135m, lora: {rank: 8}}\nrollout: {n: 3, temperature: 0.7, max_response_tokens: 80}\n"
        "reward: {mode: quality_plus_diversity, weight: 1.0, gamma_kl: 1.0, gamma_bigram: 0.0}\n"
    )
    write_lines(folder / "metrics.jsonl", metrics())
    write_lines(folder / "samples.jsonl", samples())
    (folder / "evaluation-000000.json").write_text(json.dumps(evaluation(0, "advice", 2.5)))
    (folder / "evaluation-000002.json").write_text(json.dumps(evaluation(2, "empowerment", 3.25)))
    (folder / "closing.json").write_text(json.dumps(closing()))
