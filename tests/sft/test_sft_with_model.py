"""Tokens, places and losses together on a real (tiny) model: its own loss, and heads that cannot see the reply."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dialogue.conversation import Conversation, Role, Turn
from sft.batching import check_same_tokens, collate
from sft.examples import Example, Loss, Source, Split
from sft.losses import LossWeights, joint_loss, lm_loss, safety_loss
from sft.strategies import Strategy
from sft.tokens import ChatTokens, TokenConfig, TokenSequence

ON = LossWeights(emotion=0, strategy=0)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def sequence(chat: ChatTokens, *said: str) -> TokenSequence:
    turns = tuple(Turn((Role.SEEKER, Role.SUPPORTER)[n % 2], text) for n, text in enumerate(said))
    losses = frozenset({Loss.LM, Loss.STRATEGY, Loss.SAFETY})
    example = Example(
        Conversation("c", turns), Source.OWN, Split.TRAIN, losses, strategies={len(said) - 1: Strategy.QUESTION}
    )
    return chat.tokenise(example).sequences[0]


def states(model: Any, ids: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    return model.get_decoder()(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state


def test_the_lm_loss_is_the_models_own_on_the_replies(model: Any, tokenizer: Any) -> None:
    chat = ChatTokens(tokenizer, TokenConfig())
    rows = [sequence(chat, "My cat is ill.", "Oh no.", "Yes.", "How is he?"), sequence(chat, "Hi.", "Hello there.")]
    batch = collate(rows, tokenizer.pad_token_id)
    labels = torch.full_like(batch.ids, -100)
    for row, one in enumerate(rows):
        for reply in one.replies:
            labels[row, reply.start : reply.stop] = batch.ids[row, reply.start : reply.stop]
    with torch.no_grad():
        expected = model(input_ids=batch.ids, attention_mask=batch.attention, labels=labels).loss
        spots = batch.spots[Loss.LM]
        hidden = spots.pick(states(model, batch.ids, batch.attention))
        ours = lm_loss(hidden, model.get_output_embeddings().weight, spots.targets, 1000) / len(spots)
    torch.testing.assert_close(ours, expected)


def test_the_state_that_the_strategy_head_reads_is_the_same_whatever_the_reply(model: Any, tokenizer: Any) -> None:
    chat = ChatTokens(tokenizer, TokenConfig())
    rows = [sequence(chat, "My cat is ill.", reply) for reply in ("How is he?", "Take him to a vet, at once, please.")]
    batch = collate(rows, tokenizer.pad_token_id)
    with torch.no_grad():
        read = batch.spots[Loss.STRATEGY].pick(states(model, batch.ids, batch.attention))
    torch.testing.assert_close(read[0], read[1])


def test_the_safety_loss_of_a_rules_prompted_teacher_is_not_zero_and_trains(model: Any, tokenizer: Any) -> None:
    """In the report's code it was 0 throughout. The teacher is the same model under other words."""
    chat = ChatTokens(tokenizer, TokenConfig())
    row = sequence(chat, "I took too many pills.", "Please call for help now.")
    student, teacher = (collate([one], 0) for one in (row, chat.under_system(row, "Always name a help line.")))
    places = student.spots[Loss.SAFETY], teacher.spots[Loss.SAFETY]
    check_same_tokens(places[0], places[1].targets)
    with torch.no_grad():
        rules = places[1].pick(states(model, teacher.ids, teacher.attention))
    hidden = states(model, student.ids, student.attention)
    weight = model.get_output_embeddings().weight
    terms = {
        Loss.LM: partial(lm_loss, student.spots[Loss.LM].pick(hidden), weight, student.spots[Loss.LM].targets),
        Loss.SAFETY: partial(safety_loss, places[0].pick(hidden), weight, rules, weight, 2.0),
    }
    joint = joint_loss(terms, ON, student.counts())
    assert joint.total is not None and joint.parts[Loss.SAFETY] > 1e-4
    joint.total.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    model.zero_grad()
