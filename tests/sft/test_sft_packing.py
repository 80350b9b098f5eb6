"""Packed rows: nothing overlaps, no sequence sees another, and a step gives the losses and gradient of padded rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft.base import BaseModelError
from sft.batching import Place, collate, collate_packed, pack
from sft.config import LoraConfig, ModelConfig
from sft.heads import Heads
from sft.model import SftModel, add_adapter
from sft.packing import check_packing, packed_batches
from sft.preparing import Prepared
from sft.training import Trainer

RunOf = Callable[..., Prepared]
ModelOf = Callable[..., SftModel]

CPU = torch.device("cpu")
STILL = ("model.lora.dropout=0", "model.heads.dropout=0")


def test_first_fit_decreasing_by_hand() -> None:
    """Width 10. 7 and 6 open rows; 4 fits behind 6, 3 behind 7, and 2 needs a third row."""
    assert pack([4, 7, 2, 3, 6], 10) == [Place(1, 6), Place(0, 0), Place(2, 0), Place(0, 7), Place(1, 0)]
    assert pack([1, 12], 10) == [Place(1, 0), Place(0, 0)]  # one that is longer than a row makes rows as long as it


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 40))
def test_nothing_overlaps_and_rows_are_full_enough(lengths: list[int], width: int) -> None:
    places, room = pack(lengths, width), max(width, *lengths)
    used = [(place.row, place.column + token) for place, n in zip(places, lengths, strict=True) for token in range(n)]
    assert len(set(used)) == sum(lengths) and all(column < room for _, column in used)
    rows = {place.row for place in places}
    assert rows == set(range(len(rows))) and len(rows) <= 2 * -(-sum(lengths) // room)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 4))
def test_a_micro_batch_has_no_more_rows_than_it_may(lengths: list[int], batch: int) -> None:
    """Cutting the rows of a step and packing each part anew gives the same rows."""
    total = max(place.row for place in pack(lengths, 32)) + 1
    rows = [type("Row", (), {"ids": (0,) * length})() for length in lengths]
    parts = packed_batches(rows, 32, batch)
    assert sum(len(part) for part in parts) == len(lengths)
    sizes = [max(place.row for place in pack([len(row.ids) for row in part], 32)) + 1 for part in parts]
    assert sum(sizes) == total and all(size <= batch for size in sizes)


def test_a_packed_sequence_has_the_states_that_it_has_alone(run_of: RunOf, model_of: ModelOf) -> None:
    prepared = run_of()
    model = model_of(prepared, stirred=True).eval()
    rows = next(iter(prepared.corpus.sequences.values()))[:7]
    longest = max(len(row.ids) for row in rows)
    padded, packed = collate(rows, prepared.pad_id), collate_packed(rows, 3 * longest, prepared.pad_id)
    assert packed.ids.shape[0] <= 3 < padded.ids.shape[0] and packed.counts() == padded.counts()
    with torch.no_grad():
        one = model.states(padded.ids, padded.attention)
        other = model.states(packed.ids, packed.attention, packed.positions)
    for loss, spots in padded.spots.items():
        assert torch.equal(spots.targets, packed.spots[loss].targets)
        torch.testing.assert_close(packed.spots[loss].pick(other), spots.pick(one), atol=1e-4, rtol=1e-4)


def test_a_packed_step_is_the_padded_step(run_of: RunOf) -> None:
    """With the safety teacher, both heads, and sequences of any length together."""
    shape = ("optimizer.batch=2", "optimizer.accumulation=4", "data.length_window=4", "safety.scope=every")
    plain = Trainer(run_of(*STILL, *shape), CPU)
    packed = Trainer(run_of(*STILL, *shape, "data.packing=true"), CPU)
    assert len(packed._next_batches()) == 1 < len(plain._next_batches())  # 8 short sequences fit into two rows
    for _ in range(2):
        one, other = plain.update(), packed.update()
        for name in [name for name in one if name.startswith("train/") or name in ("grad_norm", "tokens")]:
            assert other[name] == pytest.approx(one[name], rel=1e-4), name


def test_other_decoders_keep_sequences_apart_too_and_one_that_does_not_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    lm = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").requires_grad_(False)
    adapted = add_adapter(lm, ModelConfig(lora=LoraConfig(rank=2)))
    model = SftModel(adapted, Heads(64, ModelConfig().heads, frozenset()), torch.float32)
    check_packing(model)
    states = SftModel.states
    monkeypatch.setattr(SftModel, "states", lambda self, ids, attention, positions=None: states(self, ids, attention))
    with pytest.raises(BaseModelError, match=r"does not keep packed sequences apart .*set data\.packing=false"):
        check_packing(model)


@pytest.mark.slow
def test_the_benchmark_compares_the_three_ways(run_of: RunOf) -> None:
    from benchmarks.sft_packing import compete

    config = run_of().config
    given = [f"model.path={config.model.path}", f"data.own={config.data.own}", "optimizer.batch=4", "steps=2"]
    scores = compete([*given, "losses.safety=0", "optimizer.accumulation=2"], 1)
    assert all(len(score.tokens_per_s) == 1 and score.tokens_per_s[0] > 0 for score in scores.values())
    assert scores["packed"].filled[0] > scores["padded"].filled[0]
