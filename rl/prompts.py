"""From conversations to prompts, and the order in which a run asks them.

Every supporter turn of a conversation is one prompt, on its gold history (arXiv 2604.11742). `PromptQueue` is the only
state of the data side: its `state()` in a checkpoint brings back the same order.

Invariants of the queue
    Within one pass every prompt is asked exactly once, in an order that only the seed and the pass decide.
    A prompt handed back is asked again before any new one, at most `retries` times.
    One batch never holds the same prompt twice.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dialogue.control_tokens import ControlTokens
from dialogue.conversation import Conversation, Role
from dialogue.crisis.detector import detect
from dialogue.crisis.rules import CrisisKind
from dialogue.prompts import chat_messages
from rl.config import ConfigError, OverlongPrompt, RunConfig
from rl.types import Prompt, TurnTactics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TurnKey = tuple[str, int]  # conversation id, index of the turn


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of one side of the split, and how many were left out as over-long."""

    prompts: tuple[Prompt, ...]
    overlong: int


def supporter_texts(conversations: Sequence[Conversation]) -> dict[TurnKey, str]:
    """The supporter turns whose tactics `build_prompts` asks for: all but the last of each conversation."""
    return {
        (conversation.id, index): conversation.turns[index].text
        for conversation in conversations
        for index in conversation.supporter_turns()[:-1]
    }


def past_texts(conversations: Sequence[Conversation], prompts: Sequence[Prompt]) -> dict[TurnKey, str]:
    """The supporter turns that lie in the past of one of `prompts`, which may be few where many are over-long."""
    past: dict[str, int] = {}
    for prompt in prompts:
        past[prompt.conversation_id] = max(past.get(prompt.conversation_id, 0), len(prompt.past_tactics))
    return {
        (conversation.id, index): conversation.turns[index].text
        for conversation in conversations
        for index in conversation.supporter_turns()[: past.get(conversation.id, 0)]
    }


def build_prompts(
    conversations: Sequence[Conversation],
    tactics: Mapping[TurnKey, TurnTactics],
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    only: Collection[str] | None = None,
) -> PromptSet:
    """Render every supporter turn as a prompt, or those whose ids are in `only`.

    Args:
        conversations: validated ones.
        tactics: tags of the earlier supporter turns, by `supporter_texts` key. A missing key is a KeyError.
        only: ids of prompts; None for all.

    Raises:
        ConfigError: a prompt is over the limit and `data.overlong` is `refuse`.
    """
    prompts = [
        _build_prompt(conversation, index, tactics, tokenizer, config)
        for conversation in conversations
        for index in conversation.supporter_turns()
        if only is None or prompt_id(conversation, index) in only
    ]
    limit = config.rollout.max_prompt_tokens
    kept = tuple(prompt for prompt in prompts if len(prompt.token_ids) <= limit)
    if len(kept) < len(prompts) and config.data.overlong is OverlongPrompt.refuse:
        longest = max(prompts, key=lambda prompt: len(prompt.token_ids))
        raise ConfigError(
            f"{len(prompts) - len(kept)} of {len(prompts)} prompts are over rollout.max_prompt_tokens={limit}; the "
            f"longest is {longest.id} with {len(longest.token_ids)} tokens: raise the limit, or leave them out with "
            "data.overlong=skip"
        )
    if not kept:
        raise ConfigError(f"all {len(prompts)} prompts are over rollout.max_prompt_tokens={limit}: raise the limit")
    return PromptSet(kept, overlong=len(prompts) - len(kept))


def prompt_id(conversation: Conversation, index: int) -> str:
    """The name of a supporter turn in samples and messages."""
    return f"{conversation.id}/{index}"


def asked(prompts: Sequence[Prompt], config: RunConfig) -> tuple[Prompt, ...]:
    """The prompts that RL's evaluation asks; the warm start learns from all of them."""
    return tuple(prompt for prompt in prompts if config.data.first_turns or prompt.past_tactics)


def trained_on(prompts: Sequence[Prompt], config: RunConfig) -> tuple[Prompt, ...]:
    """The prompts that RL learns from: those of `asked`, without a seeker in crisis unless `data.crisis_turns`."""
    return tuple(prompt for prompt in asked(prompts, config) if config.data.crisis_turns or not prompt.crisis)


def _build_prompt(
    conversation: Conversation,
    index: int,
    tactics: Mapping[TurnKey, TurnTactics],
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
) -> Prompt:
    past = tuple(
        tactics[conversation.id, i] for i, turn in enumerate(conversation.history(index)) if turn.role is Role.SUPPORTER
    )
    seeker = conversation.turns[index - 1]
    prompt = Prompt(
        id=prompt_id(conversation, index),
        conversation_id=conversation.id,
        history=tuple(turn.as_message() for turn in conversation.history(index)),
        token_ids=(),
        past_tactics=past,
        crisis=detect(seeker.text, conversation.turns[: index - 1]).kind is not CrisisKind.NONE,
    )
    messages = chat_messages(conversation, index, config.data.system_prompt, prompt.previous_counts)
    token_ids = render(messages, tokenizer, enable_thinking=config.model.enable_thinking)
    return replace(prompt, token_ids=token_ids)


def render(
    messages: Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
    *,
    enable_thinking: bool,
) -> tuple[int, ...]:
    """Token ids of the chat template up to and including the opening of the assistant's turn, (P_T,).

    A control token that a turn spells out is read as text.
    """
    encoded = tokenizer.apply_chat_template(
        ControlTokens(tokenizer).plain_messages(messages),
        add_generation_prompt=True,
        return_dict=True,
        enable_thinking=enable_thinking,
    )
    return tuple(encoded["input_ids"])


def reply_examples(
    prompts: Sequence[Prompt], replies: Mapping[str, str], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The gold replies as language-model examples: (token ids, mask), the mask 1 on the supporter's tokens and EOS.

    Consecutive turns of a conversation share one example where the later prompt only adds tokens to the earlier one;
    where the chat template or the system prompt changes with the turn, each turn is an example of its own.

    Args:
        prompts: turns of a conversation next to each other and in order.
        replies: gold text by prompt id.
    """
    control = ControlTokens(tokenizer)
    examples: list[tuple[list[int], list[int]]] = []
    for prompt in prompts:
        tokens, mask = examples[-1] if examples else ([], [])
        if not tokens or tuple(tokens) != prompt.token_ids[: len(tokens)]:
            tokens, mask = [], []
            examples.append((tokens, mask))
        context = prompt.token_ids[len(tokens) :]
        text = control.plain(replies[prompt.id])  # as the prompts after it have it
        reply = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        tokens += [*context, *reply]
        mask += [0] * len(context) + [1] * len(reply)
    return [(tuple(tokens), tuple(mask)) for tokens, mask in examples]


class PromptQueue:
    """The endless, seeded order of the training prompts; see the module's invariants."""

    def __init__(self, prompts: Sequence[Prompt], seed: int, retries: int) -> None:
        self._by_id = {prompt.id: prompt for prompt in prompts}
        if len(self._by_id) != len(prompts):
            raise ValueError("prompt ids must be unique")
        self._ids = sorted(self._by_id)
        self._seed = seed
        self._retries = retries
        self._epoch = 0
        self._position = 0
        self._again: deque[str] = deque()
        self._attempts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def epoch(self) -> int:
        """Passes begun, from 0."""
        return self._epoch

    def attempts(self, prompt_id: str) -> int:
        """How often this prompt was handed back since it was last done."""
        return self._attempts.get(prompt_id, 0)

    def take(self, count: int) -> list[Prompt]:
        """The next `count` different prompts; those handed back come first."""
        if count > len(self._ids):
            raise ConfigError(f"prompts_per_step={count}: the training data has only {len(self._ids)} prompts")
        taken: dict[str, None] = {}
        held_over: list[str] = []  # already in this batch: a prompt handed back, or a new pass that begins with it
        while len(taken) < count:
            prompt_id = self._again.popleft() if self._again else self._advance()
            if prompt_id in taken:
                held_over.append(prompt_id)
            else:
                taken[prompt_id] = None
        self._again.extend(held_over)
        return [self._by_id[prompt_id] for prompt_id in taken]

    def hand_back(self, prompt: Prompt, reason: str) -> None:
        """Ask `prompt` again in the next batch.

        Raises:
            PromptError: it was handed back too often.
        """
        self._attempts[prompt.id] = self.attempts(prompt.id) + 1
        if self._attempts[prompt.id] > self._retries:
            raise PromptError(
                f"prompt {prompt.id} could not be used {self._attempts[prompt.id]} times in a row; last: {reason}"
            )
        self._again.append(prompt.id)

    def done(self, prompt: Prompt) -> None:
        """`prompt` was trained on."""
        self._attempts.pop(prompt.id, None)

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "position": self._position,
            "again": list(self._again),
            "attempts": dict(self._attempts),
            "fingerprint": self._fingerprint(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`.

        Raises:
            ConfigError: the prompts are not those of the checkpoint, so the order would not be the same.
        """
        if state["fingerprint"] != self._fingerprint():
            raise ConfigError(
                "the training prompts differ from those of the checkpoint (data file, split or seed changed): "
                "restore them, or start a new run with another name="
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self._again = deque(state["again"])
        self._attempts = dict(state["attempts"])

    def _advance(self) -> str:
        if self._position == len(self._ids):
            self._epoch, self._position = self._epoch + 1, 0
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._ids))
        prompt_id = self._ids[order[self._position]]
        self._position += 1
        return prompt_id

    def _fingerprint(self) -> str:
        text = "\n".join(f"{i} {self._by_id[i].token_ids}" for i in self._ids)
        return hashlib.sha256(f"{self._seed}\n{text}".encode()).hexdigest()


class PromptError(RuntimeError):
    """A prompt that could not be trained on within its retries."""


def rollout_seed(run_seed: int, step: int, prompt: Prompt, attempt: int) -> int:
    """The sampling seed of one prompt at one step: the same on whichever worker, and after a resume."""
    digest = hashlib.sha256(f"{run_seed}/{step}/{prompt.id}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
