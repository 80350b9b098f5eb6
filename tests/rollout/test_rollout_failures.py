"""A worker that dies or hangs costs time and nothing else; what cannot be recovered names its cause."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_agreement import CONFIG, disturb, full_update, worst_gap
from torch import nn

from rl.rollout import RolloutError, RolloutPool, Sampling, WorkerStatus, balanced_shares
from rl.rollout_worker import Ask
from rl.types import Prompt, RolloutGroup

LONG = Sampling(n=4, temperature=1.0, max_tokens=200)


@contextmanager
def signalling(pool: RolloutPool, number: int, times: int = 1) -> Iterator[list[WorkerStatus]]:
    """Send a signal to a worker that is seen with prompts in flight; yields the list of victims."""
    victims: list[WorkerStatus] = []
    over = threading.Event()

    def hunt() -> None:
        while len(victims) < times and not over.is_set():
            done = {victim.pid for victim in victims}
            busy = [worker for worker in pool.status() if worker.in_flight and worker.pid and worker.pid not in done]
            if busy:
                os.kill(busy[0].pid, number)
                victims.append(busy[0])
            time.sleep(0.01)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield victims
    finally:
        over.set()
        hunter.join()


def tokens(groups: list[RolloutGroup]) -> list[list[tuple[int, ...]]]:
    return [[rollout.token_ids for rollout in group.rollouts] for group in groups]


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGSTOP, id="hanging", marks=pytest.mark.slow)],
)
def test_prompts_of_a_lost_worker_are_answered_once_by_the_same_weights(
    pool: RolloutPool, prompts: tuple[Prompt, ...], policy: nn.Module, number: int
) -> None:
    disturb(policy, seed=number)
    pool.update_weights(full_update(policy, version=20 + number))
    undisturbed = pool.generate(prompts, LONG, range(8))
    done: list[int] = []
    with signalling(pool, number) as victims:
        groups = pool.generate(prompts, LONG, range(8), lambda count, _: done.append(count))
    if not victims:
        pytest.skip("no worker was seen with prompts in flight: the machine was too fast for this test")
    assert [group.prompt for group in groups] == list(prompts)
    assert done == list(range(1, 9))
    assert {rollout.policy_version for group in groups for rollout in group.rollouts} == {20 + number}
    assert tokens(groups) == tokens(undisturbed)
    assert not alive(victims[0].pid)


@pytest.mark.slow
def test_a_worker_started_again_has_the_newest_weights(
    pool: RolloutPool, prompts: tuple[Prompt, ...], policy: nn.Module
) -> None:
    pool.update_weights(full_update(policy, version=40))
    for victim in pool.status():
        os.kill(victim.pid, signal.SIGKILL)
    disturb(policy, seed=41)
    pool.update_weights(full_update(policy, version=41))
    groups = pool.generate(prompts, replace(LONG, max_tokens=8), range(8))
    assert {rollout.policy_version for group in groups for rollout in group.rollouts} == {41}
    assert worst_gap(policy, groups, 1.0) < 1e-4


@pytest.mark.slow
def test_a_prompt_that_loses_every_worker_is_named_with_worker_node_and_cause(
    ray_cluster: None, tiny_model: Path, prompts: tuple[Prompt, ...]
) -> None:
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, workers=1, retries=0))
    pool = RolloutPool(config, tiny_model)
    try:
        pool.start()
        node = pool.status()[0].node
        with signalling(pool, signal.SIGKILL) as victims, pytest.raises(RolloutError) as caught:
            pool.generate(prompts, LONG, range(8))
        assert victims
        assert caught.value.prompt in victims[0].in_flight
        assert (caught.value.worker, caught.value.node) == (0, node)
        assert "ActorDiedError" in caught.value.cause
        with pytest.raises(RolloutError, match=caught.value.prompt):
            pool.generate(prompts, LONG, range(8))
    finally:
        pool.close()


def test_a_model_that_cannot_be_loaded_gives_its_reason(ray_cluster: None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, workers=1, retries=0))
    pool = RolloutPool(config, tmp_path)
    try:
        with pytest.raises(RolloutError, match=r"rollout worker 0 .*no-such-model"):
            pool.start()
    finally:
        pool.close()


def test_an_error_keeps_its_fields_through_pickling() -> None:
    error = pickle.loads(pickle.dumps(RolloutError("talk-1/3", 2, "10.0.0.7", "it hung")))
    assert (error.prompt, error.worker, error.node, error.cause) == ("talk-1/3", 2, "10.0.0.7", "it hung")
    assert str(error) == "prompt talk-1/3 on rollout worker 2 (node 10.0.0.7) failed: it hung"


@given(lengths=st.lists(st.integers(1, 900), max_size=40), workers=st.integers(1, 6))
def test_shares_hold_every_ask_once_and_differ_by_at_most_one_ask_of_work(lengths: list[int], workers: int) -> None:
    asks = [Ask(i, (1,) * length, i) for i, length in enumerate(lengths)]
    shares = list(balanced_shares(asks, workers, Sampling(n=2, max_tokens=50)))
    assert sorted(ask.index for share in shares for ask in share) == list(range(len(asks)))
    work = [sum(len(ask.token_ids) + 100 for ask in share) for share in shares]
    assert max(work) - min(work) <= max(lengths, default=0) + 100


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:  # noqa: PTH123
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
