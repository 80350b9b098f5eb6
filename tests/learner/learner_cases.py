"""Made-up groups for the learner's tests, and the plain way to score them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from rl.types import TrainGroup

VOCABULARY = 400  # ids below it exist in every model of these tests


def made_up_groups(
    count: int, seed: int = 0, prompt: tuple[int, int] = (5, 30), reply: tuple[int, int] = (1, 20), replies: int = 4
) -> list[TrainGroup]:
    """Ragged groups; ranges of lengths are inclusive."""
    draw = random.Random(seed)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(5, VOCABULARY) for _ in range(length))

    groups = []
    for _ in range(count):
        lengths = [draw.randint(*reply) for _ in range(replies)]
        groups.append(
            TrainGroup(
                prompt_ids=tokens(draw.randint(*prompt)),
                response_ids=tuple(tokens(length) for length in lengths),
                rollout_logprobs=tuple(tuple(-8 - draw.random() for _ in range(length)) for length in lengths),
                advantages=tuple((draw.gauss(0, 1),) * length for length in lengths),
            )
        )
    return groups


def plain_logprobs(model: torch.nn.Module, group: TrainGroup, temperature: float = 1.0) -> list[torch.Tensor]:
    """Each reply alone after its prompt, through transformers' own forward pass: one (T,) per reply."""
    answers = []
    for reply in group.response_ids:
        ids = torch.tensor([[*group.prompt_ids, *reply]])
        logits = model(input_ids=ids).logits[0, len(group.prompt_ids) - 1 : -1]
        logprobs = (logits / temperature).log_softmax(-1)
        answers.append(logprobs.gather(1, torch.tensor(reply)[:, None])[:, 0])
    return answers


def load_plain(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def relative_gradient_error(plain: torch.nn.Module, ours: torch.nn.Module) -> float:
    """The largest ||g' - g|| / ||g|| over parameters of the same name."""
    expected = {name: value.grad for name, value in plain.named_parameters()}
    errors = []
    for name, value in ours.named_parameters():
        reference = expected[name]
        assert value.grad is not None and reference is not None, name
        errors.append(float((value.grad - reference).norm() / reference.norm()))
    assert len(errors) == len(expected)
    return max(errors)


def flat(ragged: Sequence[Sequence[float]]) -> list[float]:
    return [value for row in ragged for value in row]
