"""The rules-prompted teacher: adapters off, rules on, and no call where nothing asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dialogue.conversation import Conversation, Role, Turn
from dialogue.loaders import load_conversations
from sft.batching import collate
from sft.examples import Loss
from sft.losses import joint_loss
from sft.model import SftModel
from sft.opening import read_opening
from sft.preparing import Prepared
from sft.safety_rules import RULES, rules_apply, rules_prompt
from sft.teacher import Teacher
from sft.terms import TermOptions, batch_terms

RunOf = Callable[..., Prepared]
ModelOf = Callable[..., SftModel]

CPU = torch.device("cpu")


class NeverTeacher:
    def reply_states(self, *_: Any) -> torch.Tensor:
        raise AssertionError("the teacher was called")


def rows_of(prepared: Prepared, sensitive: bool) -> list:
    rows = next(iter(prepared.corpus.sequences.values()))
    return [row for row in rows if (Loss.SAFETY in row.losses) is sensitive][:2]


def test_the_teacher_is_the_plain_base_under_the_rules(run_of: RunOf, model_of: ModelOf) -> None:
    from transformers import AutoModelForCausalLM

    prepared = run_of()
    model = model_of(prepared, stirred=True).train()
    rows = rows_of(prepared, True)[:1] + rows_of(prepared, False)[:1]
    batch = collate(rows, prepared.pad_id)
    found = Teacher(model, prepared.chat, prepared.pad_id, "").reply_states(rows, batch.spots[Loss.SAFETY])
    row = rows[0]
    messages = [{"role": "system", "content": RULES}, {"role": "user", "content": row.turns[0].text}]
    text = prepared.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt = prepared.tokenizer.encode(text, add_special_tokens=False)
    reply = row.ids[row.replies[0].start :]
    base = AutoModelForCausalLM.from_pretrained(prepared.base, dtype=torch.float32).eval()
    with torch.no_grad():
        states = base.get_decoder()(input_ids=torch.tensor([[*prompt, *reply]])).last_hidden_state[0]
    torch.testing.assert_close(found, states[len(prompt) - 1 : -1], atol=1e-4, rtol=1e-4)
    assert not found.requires_grad
    assert model.lm.training and model.training


def test_the_rules_are_read_once_and_change_no_state(run_of: RunOf, model_of: ModelOf) -> None:
    prepared = run_of()
    model = model_of(prepared, stirred=True).train()
    every = [row for rows in prepared.corpus.sequences.values() for row in rows if Loss.SAFETY in row.losses]
    rows = sorted(every, key=lambda row: len(row.ids))
    rows = [rows[-1], rows[0], rows[len(rows) // 2]]  # of different lengths, so that two are padded
    student = collate(rows, prepared.pad_id).spots[Loss.SAFETY]
    teacher = Teacher(model, prepared.chat, prepared.pad_id, "Be brief.")
    found = [teacher.reply_states(rows, student) for _ in range(2)]
    read: list[int] = []
    watched = (
        model.lm.get_base_model()
        .get_decoder()
        .register_forward_pre_hook(
            lambda module, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
    )
    teacher.reply_states(rows, student)
    watched.remove()
    whole = [prepared.chat.under_system(row, rules_prompt("Be brief.")) for row in rows]
    batch = collate(whole, prepared.pad_id)
    with model.as_teacher():
        states = batch.spots[Loss.SAFETY].pick(model.states(batch.ids, batch.attention))
    torch.testing.assert_close(found[0], states, atol=1e-5, rtol=1e-4)
    assert torch.equal(found[0], found[1])
    rules = len(prepared.tokenizer.encode(RULES))
    assert [width < batch.ids.shape[1] - 0.9 * rules for width in read] == [True]


def test_a_base_with_a_window_reads_the_rules_with_every_row(tiny_model: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny_model)
    decoder = AutoModelForCausalLM.from_config(config).get_decoder()
    assert read_opening(decoder, (1, 2, 3), CPU) is not None
    config.use_sliding_window, config.sliding_window = True, 8
    config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    decoder = AutoModelForCausalLM.from_config(config).get_decoder()
    assert read_opening(decoder, (1, 2, 3), CPU) is None


def test_after_the_teacher_the_adapter_is_on_again_and_trains(run_of: RunOf, model_of: ModelOf) -> None:
    prepared = run_of()
    model = model_of(prepared, stirred=True).eval()
    batch = collate(rows_of(prepared, True), prepared.pad_id)
    names = set(model.trained())
    before = model.states(batch.ids, batch.attention)
    with model.as_teacher():
        plain = model.states(batch.ids, batch.attention)
    assert (before - plain).abs().max() > 1e-3
    torch.testing.assert_close(model.states(batch.ids, batch.attention), before)
    assert set(model.trained()) == names


@pytest.mark.parametrize(("sensitive", "overrides"), [(True, ("losses.safety=0",)), (False, ())])
def test_no_call_where_lambda_is_0_or_no_item_asks(
    run_of: RunOf, model_of: ModelOf, sensitive: bool, overrides: tuple[str, ...]
) -> None:
    rows = rows_of(run_of(), sensitive)
    prepared = run_of(*overrides)
    config = prepared.config
    model = model_of(prepared)
    batch = collate(rows, prepared.pad_id)
    assert bool(batch.counts()[Loss.SAFETY]) is sensitive
    states = model.states(batch.ids, batch.attention)
    options = TermOptions(config.losses, 1.0, 1024)
    terms = batch_terms(model, states, NeverTeacher(), rows, batch, options)  # type: ignore[arg-type]
    assert set(joint_loss(terms, config.losses, batch.counts()).parts) == {Loss.LM, Loss.EMOTION, Loss.STRATEGY}


def test_the_rules_apply_to_the_crises_and_not_to_everyday_talk() -> None:
    starter = load_conversations("starter")
    chosen = {conversation.id for conversation in starter if rules_apply(conversation)}
    assert {c.id for c in starter if c.id.startswith("crisis-")} <= chosen
    assert len(chosen) <= 8
    said = Conversation("c", (Turn(Role.SEEKER, "Work is slow."), Turn(Role.SUPPORTER, "Do you want to die?")))
    assert not rules_apply(said)  # only what the seeker says counts
