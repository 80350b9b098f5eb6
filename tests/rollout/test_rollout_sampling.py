"""What a rollout says about itself is true: its log-probs, its end, its text, its seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rollout_agreement import full_update, make_prompt, worst_gap
from torch import nn
from transformers import AutoTokenizer

from rl.rollout import RolloutError, RolloutPool, Sampling
from rl.types import Prompt, StopReason

SHORT = Sampling(n=4, temperature=1.0, max_tokens=24)


def test_groups_come_in_the_order_of_the_prompts_with_n_rollouts_each(
    pool: RolloutPool, prompts: tuple[Prompt, ...]
) -> None:
    progress: list[tuple[int, int]] = []
    groups = pool.generate(prompts, SHORT, range(8), lambda done, asked: progress.append((done, asked)))
    assert [group.prompt for group in groups] == list(prompts)
    assert {len(group.rollouts) for group in groups} == {4}
    assert progress == [(done, 8) for done in range(1, 9)]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_logprobs_are_those_of_the_distribution_at_the_sampling_temperature(
    pool: RolloutPool, prompts: tuple[Prompt, ...], policy: nn.Module, temperature: float
) -> None:
    groups = pool.generate(prompts, Sampling(n=2, temperature=temperature, max_tokens=24), range(8))
    assert worst_gap(policy, groups, temperature) < 1e-4
    assert worst_gap(policy, groups, temperature + 0.1) > 1e-2


def test_the_same_seed_gives_the_same_tokens_alone_or_in_a_batch_and_on_any_worker(
    pool: RolloutPool, prompts: tuple[Prompt, ...]
) -> None:
    together = pool.generate(prompts, SHORT, range(8))
    backwards = pool.generate(prompts[::-1], SHORT, range(7, -1, -1))[::-1]
    alone = [pool.generate([prompt], SHORT, [seed])[0] for seed, prompt in enumerate(prompts)]
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert [r.token_ids for r in a.rollouts] == [r.token_ids for r in b.rollouts]
        assert [r.token_ids for r in a.rollouts] == [r.token_ids for r in c.rollouts]


def test_another_seed_gives_other_tokens_and_no_two_replies_of_neighbouring_seeds_share_their_noise(
    pool: RolloutPool, prompts: tuple[Prompt, ...]
) -> None:
    groups = pool.generate([prompts[0]] * 3, SHORT, [5, 6, 7])
    replies = [rollout.token_ids for group in groups for rollout in group.rollouts]
    assert len(set(replies)) == 12


def test_a_reply_ends_with_its_eos_token_or_at_the_limit_and_the_text_shows_neither(
    pool: RolloutPool, prompts: tuple[Prompt, ...], policy: nn.Module, tiny_model: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    eos = tokenizer.eos_token_id
    with torch.no_grad():  # the tied embedding of EOS: its logit now swings widely, so many replies close their turn
        policy.get_parameter("model.embed_tokens.weight")[eos] *= 80
    before = pool.version
    pool.update_weights(full_update(policy, before + 1))
    groups = pool.generate(prompts, Sampling(n=8, max_tokens=24), range(8))
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert {rollout.stop_reason for rollout in rollouts} == {StopReason.EOS, StopReason.LENGTH}
    for rollout in rollouts:
        closed = rollout.stop_reason is StopReason.EOS
        assert rollout.token_ids.count(eos) == closed
        assert (rollout.token_ids[-1] == eos) == closed
        assert closed or len(rollout.token_ids) == 24
        assert tokenizer.eos_token not in rollout.text
        assert rollout.text == tokenizer.decode(rollout.token_ids, skip_special_tokens=True)
    assert worst_gap(policy, groups, 1.0) < 1e-4


def test_a_prompt_without_room_for_its_reply_is_an_error_that_names_it_and_harms_nothing(
    pool: RolloutPool, prompts: tuple[Prompt, ...]
) -> None:
    long = make_prompt("talk-9/3", [5] * 400)
    with pytest.raises(RolloutError, match=r"talk-9/3.*400 tokens.*max_prompt_tokens"):
        pool.generate([prompts[0], long], SHORT, [0, 1])
    assert len(pool.generate(prompts[:1], SHORT, [0])) == 1
