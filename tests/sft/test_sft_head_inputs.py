"""What the heads read has mean 0 and spread 1 when a run begins, and a resumed run does not begin again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sft.batching import collate
from sft.examples import Loss
from sft.head_inputs import TURNS, standardise_heads
from sft.heads import Head
from sft.model import SftModel
from sft.preparing import Prepared
from sft.saved import load_model
from sft.training import Trainer, train

RunOf = Callable[..., Prepared]
ModelOf = Callable[..., SftModel]


def test_states_become_mean_0_and_spread_1_and_what_hardly_differs_is_not_blown_up() -> None:
    head = Head(3, 2, 2, 0.0)
    states = torch.tensor([[1.0, 10.0, 5.0], [3.0, 14.0, 5.0]])
    head.standardise(states)
    assert head.mean.tolist() == [2.0, 12.0, 5.0]
    # sqrt(2) and sqrt(8), and for the third a hundredth of sqrt((2 + 8 + 0) / 3)
    assert head.spread.tolist() == pytest.approx([2**0.5, 8**0.5, 0.01 * (10 / 3) ** 0.5])
    torch.testing.assert_close(head(torch.tensor([[2.0, 14.0, 5.0]])), head.layers(torch.tensor([[0.0, 2**-0.5, 0.0]])))


def test_equal_states_are_only_centred() -> None:
    head = Head(3, 2, 2, 0.0)
    head.standardise(torch.ones(4, 3))
    assert head.mean.tolist() == head.spread.tolist() == [1.0, 1.0, 1.0]


def test_a_run_begins_with_the_states_of_the_base_at_its_own_turns(run_of: RunOf) -> None:
    prepared = run_of()
    trainer = Trainer(prepared, torch.device("cpu"))
    trainer.begin()
    rows = [row for several in prepared.corpus.sequences.values() for row in several]
    assert 2 < len(rows) < TURNS  # all of them, each once
    batch = collate(rows, prepared.pad_id)
    with torch.no_grad():
        states = trainer.model.eval().states(batch.ids, batch.attention)
    for loss in (Loss.EMOTION, Loss.STRATEGY):
        read = batch.spots[loss].pick(states)
        head = trainer.model.heads[loss.value]
        assert isinstance(head, Head)
        torch.testing.assert_close(head.mean, read.mean(0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(head.spread, read.std(0), atol=1e-4, rtol=1e-3)


def test_it_reads_no_more_turns_than_a_head_lacks_and_the_adapter_has_no_say(run_of: RunOf, model_of: ModelOf) -> None:
    prepared = run_of()
    rows = [row for several in prepared.corpus.sequences.values() for row in several]
    plain, stirred = model_of(prepared), model_of(prepared, stirred=True)
    counts = standardise_heads(plain, iter(rows * 9), 2, prepared.pad_id)
    assert counts == {Loss.EMOTION: len(rows), Loss.STRATEGY: len(rows)}
    standardise_heads(stirred, rows, 2, prepared.pad_id)
    for name, value in plain.heads.named_buffers():
        assert torch.equal(value, stirred.heads.get_buffer(name))
    fresh = model_of(prepared)
    assert standardise_heads(fresh, rows[:1], 2, prepared.pad_id) == {Loss.EMOTION: 1, Loss.STRATEGY: 1}
    assert not fresh.heads.get_buffer("emotion.mean").any()  # one turn has no spread


def test_a_model_is_saved_with_them_and_a_resumed_run_keeps_them(
    run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = run_of()

    def stop(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(prepared, stop)
    monkeypatch.setattr(Trainer, "begin", lambda self: pytest.fail("a resumed run begins again"))
    folder = train(prepared).folder
    mean = load_model(folder / "best").model.heads.get_buffer("emotion.mean")
    assert mean.any()
