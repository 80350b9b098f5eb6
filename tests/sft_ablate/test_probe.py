"""The linear probe: what it can tell apart, and that it reads the base where the heads read it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from sft.ablation.running import prepare_ablation
from sft.ablation.variants import Variant
from sft.batching import collate
from sft.commands import ablate
from sft.config import SftConfig
from sft.corpus import Corpus
from sft.examples import Loss, Source
from sft.measuring.measures import hits_of
from sft.measuring.probe import MAX_ROWS, Turns, guess, labelled_turns, linear_probe
from sft.model import build_model

ConfigOf = Callable[..., SftConfig]
CPU = torch.device("cpu")


def turns(seed: int, count: int = 90) -> Turns:
    """Three classes around three corners; every tenth turn has a second label, which its state does not show."""
    draw = np.random.default_rng(seed)
    classes = np.arange(count) % 3
    states = 4.0 * np.eye(3, 6)[classes] + draw.normal(size=(count, 6))
    labels = np.eye(4, dtype=bool)[classes]
    labels[::10, 3] = True
    return Turns(states.astype(np.float32), labels)


def test_it_tells_apart_what_a_line_can() -> None:
    train, unseen = turns(0), turns(1)
    said = guess(train, unseen.states)
    assert unseen.labels[np.arange(len(said)), said].mean() > 0.9 and set(said) == {0, 1, 2}


def test_noise_teaches_it_nothing() -> None:
    train, unseen = turns(0), turns(1)
    said = guess(train._replace(states=np.random.default_rng(2).normal(size=(90, 6)).astype(np.float32)), unseen.states)
    assert unseen.labels[np.arange(len(said)), said].mean() < 0.6


@pytest.mark.parametrize("count", [1, 6])
def test_one_class_is_always_said(count: int) -> None:
    train = Turns(np.ones((count, 2), np.float32), np.tile(np.array([[False, True]]), (count, 1)))
    assert guess(train, np.zeros((3, 2), np.float32)) == [1, 1, 1]


def test_it_reads_the_base_alone_where_the_heads_read(ablation_config: ConfigOf) -> None:
    ablation = prepare_ablation(ablation_config(), (0,))
    full = ablation.prepared[Variant.FULL]
    model = build_model(full.config, full.base, CPU).train()
    rows = full.corpus.sequences[Source.OWN][:3]
    found = labelled_turns(model, rows, (Loss.EMOTION, Loss.STRATEGY), 2, full.pad_id)
    with torch.no_grad():
        for name, value in model.trained().items():
            value.fill_(0.3 if "lora" in name else 0)
    again = labelled_turns(model, rows, (Loss.EMOTION, Loss.STRATEGY), 2, full.pad_id)
    for loss, one in found.items():
        np.testing.assert_array_equal(one.states, again[loss].states)  # neither adapter nor heads
        assert one.states.shape == (3, 256) and (one.labels.sum(1) == 1).all()
    shortest = min(rows, key=lambda row: len(row.ids))
    batch = collate([shortest], full.pad_id)
    with model.as_teacher():
        alone = batch.spots[Loss.STRATEGY].pick(model.states(batch.ids, batch.attention)).numpy()
    np.testing.assert_allclose(found[Loss.STRATEGY].states[:1], alone, atol=1e-4)


def test_it_is_measured_on_rows_that_it_has_not_seen(ablation_config: ConfigOf) -> None:
    """The classes of this data follow from a number in the text: known rows are easily told apart, others are not."""
    ablation = prepare_ablation(ablation_config("data.max_dev=0"), (0,))
    full = ablation.prepared[Variant.FULL]
    model = build_model(full.config, full.base, CPU)
    known = linear_probe(model, full.corpus, full.corpus.sequences[Source.OWN], ablation.heads, 4, full.pad_id)
    other = linear_probe(model, full.corpus, ablation.rows, ablation.heads, 4, full.pad_id)
    assert hits_of(known[Loss.EMOTION]).mean() >= 0.5
    assert len(other[Loss.EMOTION].said) == len(ablation.rows)
    without = Corpus({Source.OWN: [replace(row, losses=frozenset({Loss.LM})) for row in ablation.rows]}, 0)
    assert linear_probe(model, without, ablation.rows, ablation.heads, 4, full.pad_id) == {}


def test_a_limit_spreads_over_the_training_sequences(ablation_config: ConfigOf) -> None:
    ablation = prepare_ablation(ablation_config("data.max_dev=0"), (0,))
    full = ablation.prepared[Variant.FULL]
    model, rows = build_model(full.config, full.base, CPU), full.corpus.sequences[Source.OWN]
    third = Corpus({Source.OWN: [row for row in rows if row.losses & {Loss.EMOTION, Loss.STRATEGY}][::3]}, 0)
    limit = len(third.sequences[Source.OWN])
    assert len(rows) == 3 * limit
    limited = linear_probe(model, full.corpus, ablation.rows, ablation.heads, 4, full.pad_id, limit)
    alone = linear_probe(model, third, ablation.rows, ablation.heads, 4, full.pad_id)
    assert {loss: head.said for loss, head in limited.items()} == {loss: head.said for loss, head in alone.items()}


def test_the_command_offers_the_limit_that_the_probe_has() -> None:
    assert inspect.signature(ablate).parameters["probe_rows"].default == MAX_ROWS
