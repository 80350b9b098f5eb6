"""Ratings, split and training: read with named errors, never a held-out conversation, and the loss falls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dialogue.conversation import Message
from reward_servers.empathy.data import (
    RatedReply,
    RatingsError,
    held_out_conversations,
    load_ratings,
    split_by_conversation,
)
from reward_servers.empathy.evaluation import agreement
from reward_servers.empathy.network import INPUTS, NetworkConfig
from reward_servers.empathy.phrases import POOLS, Pool
from reward_servers.empathy.probes import ProbeKind
from reward_servers.empathy.training import TrainingConfig, aggregated, honest_examples, probe_examples, train
from reward_servers.protocol import EmpathyScore

HEADER = (
    "conversation_id,turn_index,validating_emotions,encouraging_elaboration,demonstrating_understanding,"
    "advice_giving,self_oriented,dismissing_emotions,aggregated_empathy\n"
)


def write_system(mint: Path, rows: str, turns: int = 2) -> Path:
    folder = mint / "outputs" / "somebody"
    folder.mkdir(parents=True)
    history = [{"role": "user", "content": "I feel flat."}]
    entries = [
        {"conversation_id": f"c{n}", "conversation_history": history, "model_response": f"Reply {n}."}
        for n in range(turns)
    ]
    (folder / "conversations_tagged.json").write_text(json.dumps(entries))
    (folder / "gpt-oss-120b_ratings.csv").write_text(HEADER + rows)
    return folder


def test_ratings_are_joined_to_replies_and_a_blank_one_is_left_out(tmp_path: Path):
    write_system(tmp_path, "c0,1,4,3,2,1,2,4,3.3333\nc1,1,4,3,2,1,2,,3.3\n")
    (reply,) = load_ratings(tmp_path)
    assert (reply.system, reply.conversation, reply.turn, reply.reply) == ("somebody", "c0", 1, "Reply 0.")
    assert reply.rating.aggregated == pytest.approx(20 / 6)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("c0,1,4,3,2,1,2,4,3.3\n", r"conversation c1, turn 1\) has no rating"),
        ("c0,1,4,3,2,1,2,9,3.3\nc1,1,1,1,1,1,1,1,1\n", "line 2: ratings lie between 1 and 5"),
        ("c0,1,4,3,2,1,2,4,3.3\nc1,1,1,x,1,1,1,1,1\n", "line 3: a rating is missing or is no number"),
        ("c0,first,4,3,2,1,2,4,3.3\n", "line 2: expected conversation_id and a whole turn_index"),
    ],
)
def test_bad_ratings_are_named(tmp_path: Path, rows: str, complaint: str):
    write_system(tmp_path, rows)
    with pytest.raises(RatingsError, match=complaint):
        load_ratings(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('[{"conversation_id": "c0"', "is the file cut off"),
        ("{}", "a JSON array expected"),
        ('[{"conversation_id": "c0"}]', "entry 0 is not a reply of a system"),
    ],
)
def test_replies_that_cannot_be_read_are_named(tmp_path: Path, content: str, complaint: str):
    folder = write_system(tmp_path, "c0,1,4,3,2,1,2,4,3.3\n")
    (folder / "conversations_tagged.json").write_text(content)
    with pytest.raises(RatingsError, match=f"conversations_tagged.json.*{complaint}"):
        load_ratings(tmp_path)


def test_a_folder_without_ratings_is_named(tmp_path: Path):
    with pytest.raises(RatingsError, match="give the folder that holds `outputs`"):
        load_ratings(tmp_path)


def some_replies(count: int) -> list[RatedReply]:
    return [
        RatedReply(
            system="somebody",
            conversation=f"c{n // 2}",
            turn=1 + 2 * (n % 2),
            history=(Message(role="user", content=f"Thing number {n} went wrong."),),
            reply=f"Number {n} sounds hard. What happened next?",
            rating=EmpathyScore((1.0 + n % 5, 3, 3, 2, 1, 1)),
        )
        for n in range(count)
    ]


def test_the_split_keeps_conversations_whole():
    kept, unseen = split_by_conversation(some_replies(20), frozenset({"c1", "c4"}))
    assert {r.conversation for r in unseen} == {"c1", "c4"}
    assert not {r.conversation for r in kept} & {"c1", "c4"}
    assert len(kept) + len(unseen) == 20
    assert len(held_out_conversations()) == 15


def test_training_probes_come_from_the_training_pool_and_leave_out_what_is_asked():
    config = TrainingConfig(probe_copies=3, leave_out=(ProbeKind.PLEADING, ProbeKind.HONEST_AND_PLEADING))
    texts = [example.request.response for example in probe_examples(some_replies(40), config)]
    assert len(texts) >= 120
    assert not any(plea in text for plea in POOLS[Pool.TEST].pleas for text in texts)
    assert not any(plea in text for plea in POOLS[Pool.TRAIN].pleas for text in texts)


def test_training_lowers_the_loss_and_is_repeatable():
    replies = some_replies(40)
    config = TrainingConfig(epochs=6, batch=16, network=NetworkConfig(heads=1, quality_width=8, genuine_width=8))
    examples = [*honest_examples(replies), *probe_examples(replies, config)]
    x = torch.randn(len(examples), INPUTS, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.tensor([example.genuine for example in examples]) * 4
    network, losses = train(x, examples, config)
    assert losses[-1] < 0.8 * losses[0]
    again, same = train(x, examples, config)
    assert losses == same
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_aggregate_of_tensors_agrees_with_the_protocol():
    rows = [(4.0, 3.0, 2.0, 1.0, 2.0, 4.0), (1.0, 1.0, 1.0, 5.0, 5.0, 5.0)]
    assert aggregated(torch.tensor(rows)).tolist() == pytest.approx([EmpathyScore(row).aggregated for row in rows])


def test_agreement_by_hand():
    # ranks 1 2 3 against 1 3 2: rho = 1 - 6 * (0 + 1 + 1) / (3 * 8) = 0.5; errors 0, 1, 0.5
    result = agreement([1.0, 2.0, 3.0], [1.0, 3.0, 2.5])
    assert result.spearman == pytest.approx(0.5)
    assert result.mae == pytest.approx(0.5)
    assert result.count == 3
