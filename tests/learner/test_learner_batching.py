"""Groups become rows, micro-batches and shares of ranks: nothing lost, limits kept, every rank as many."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learner_cases import made_up_groups

from rl.batching import ReplyKey, Row, collate, plan, rows_of
from rl.types import TrainGroup

LIMIT = 60


def group(prompt: int, *replies: int) -> TrainGroup:
    """Token ids count up from 100 in the prompt, and from 1000, 2000, ... in the replies."""
    zeros = tuple((0.0,) * length for length in replies)
    responses = tuple(tuple(range(1000 * n, 1000 * n + length)) for n, length in enumerate(replies, start=1))
    return TrainGroup(tuple(range(100, 100 + prompt)), responses, zeros, zeros)


groups_strategy = st.lists(
    st.builds(
        lambda prompt, replies: group(prompt, *replies),
        st.integers(1, 80),
        st.lists(st.integers(1, 30), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(groups=groups_strategy, ranks=st.integers(1, 4))
def test_every_reply_is_planned_once_and_limits_hold(groups: list[TrainGroup], ranks: int) -> None:
    shares = plan(groups, ranks, LIMIT)
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1, "collectives must match"
    batches = [batch for share in shares for batch in share]
    seen = Counter(key for batch in batches for row in batch for key in row.keys)
    assert seen == Counter(ReplyKey(g, r) for g, one in enumerate(groups) for r in range(len(one.response_ids)))
    for batch in batches:
        cells = len(batch) * max(map(len, batch), default=0)
        assert cells <= LIMIT or (len(batch) == 1 and len(batch[0].keys) == 1)


@settings(max_examples=40, deadline=None)
@given(groups=groups_strategy)
def test_tensors_hold_the_tokens_they_were_made_from(groups: list[TrainGroup]) -> None:
    for rows in plan(groups, 1, LIMIT)[0]:
        batch = collate(rows)
        cells = batch.input_ids.flatten()
        for number, key in enumerate(batch.keys):
            reply = groups[key.group].response_ids[key.reply]
            length = len(reply)
            assert tuple(batch.response_ids[number, :length].tolist()) == reply
            assert tuple(cells[batch.cells[number, :length]].tolist()) == reply
            assert batch.response_mask[number].sum() == length
            # what predicts a token is the cell before it, and the prompt's last for the first
            predictors = cells[batch.gather[number, :length]].tolist()
            assert predictors == [groups[key.group].prompt_ids[-1], *reply[:-1]]


def test_positions_restart_after_the_prompt() -> None:
    batch = collate(rows_of(0, group(3, 2, 3), limit=100))
    assert batch.input_ids.tolist() == [[100, 101, 102, 1000, 1001, 2000, 2001, 2002]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]
    assert batch.gather.tolist() == [[2, 3, 0], [2, 5, 6]]


def test_a_group_over_the_limit_repeats_its_prompt() -> None:
    rows = rows_of(0, group(10, 20, 20, 20), limit=50)
    assert [len(row) for row in rows] == [50, 30]
    assert [[key.reply for key in row.keys] for row in rows] == [[0, 1], [2]]


def test_a_reply_that_alone_exceeds_the_limit_is_kept_whole() -> None:
    rows = rows_of(0, group(40, 5, 30, 5), limit=50)
    assert [[key.reply for key in row.keys] for row in rows] == [[0], [1], [2]]
    assert [len(row) for row in rows] == [45, 70, 45]


def test_ranks_get_similar_shares() -> None:
    shares = plan(made_up_groups(32, reply=(5, 40)), ranks=2, micro_batch_tokens=400)
    loads = [sum(len(row) for batch in share for row in batch) for share in shares]
    assert max(loads) <= 1.1 * min(loads)


def test_a_rank_without_work_gets_an_empty_micro_batch() -> None:
    shares = plan([group(5, 3)], ranks=3, micro_batch_tokens=LIMIT)
    assert sorted(sum(len(batch) for batch in share) for share in shares) == [0, 0, 1]
    empty = collate([])
    assert empty.is_empty and empty.response_mask.sum() == 0 and empty.input_ids.shape == (1, 1)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (TrainGroup((), ((1,),), ((0.0,),), ((0.0,),)), "empty prompt"),
        (TrainGroup((1,), ((),), ((),), ((),)), "group 0, reply 0: 0 tokens"),
        (TrainGroup((1,), ((1, 2),), ((0.0,),), ((0.0, 0.0),)), "2 tokens, 1 log-probs"),
        (TrainGroup((1,), ((1,),), (), ((0.0,),)), "as many log-probs"),
    ],
)
def test_ragged_fields_that_do_not_fit_are_refused(broken: TrainGroup, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan([broken], 1, LIMIT)


def test_length_of_a_row() -> None:
    one = group(4, 2, 7)
    assert len(Row(one.prompt_ids, (ReplyKey(0, 1),), one)) == 11
    assert torch.equal(collate([Row(one.prompt_ids, (ReplyKey(0, 1),), one)]).prompts, torch.tensor([4]))
