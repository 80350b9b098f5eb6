"""The things that pass through a GRPO step, in the order in which they come to be.

    Prompt -> RolloutGroup of Rollouts -> ScoredGroup -> TrainGroup -> the learners

Suffixes name ragged axes: P prompts, G rollouts of one prompt, T tokens of one rollout. Sampled token ids are the
truth and text is a view of them: nothing here is ever tokenised again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dialogue.conversation import Message
from dialogue.tactics import Tactic, TacticCounts, count_tactics

TurnTactics = tuple[tuple[Tactic, ...], ...]


class StopReason(StrEnum):
    """Why generation of a rollout ended."""

    EOS = "eos"  # the model closed its turn
    LENGTH = "length"  # max_response_tokens was reached: the reply is truncated


@dataclass(frozen=True, slots=True)
class Prompt:
    """One supporter turn to be written.

    Attributes:
        id: `<conversation id>/<turn index>`, unique in a data set.
        conversation_id: for splits: a conversation is wholly in training or wholly held out.
        history: user and assistant messages before the turn, without the system prompt: what the scorers see.
        token_ids: the rendered chat template, system prompt and generation prompt included, (P_T,).
        past_tactics: for every earlier supporter turn, oldest first, the tactics of its sentences: turns of S tuples.
        crisis: the seeker's turn tells of self-harm, a wish to die or danger, or goes on from one that did.
    """

    id: str
    conversation_id: str
    history: tuple[Message, ...]
    token_ids: tuple[int, ...]
    past_tactics: tuple[TurnTactics, ...] = ()
    crisis: bool = False

    @property
    def previous_counts(self) -> TacticCounts | None:
        """Tactic counts of the previous supporter turn, (K,); None where the supporter has not spoken yet."""
        return count_tactics(self.past_tactics[-1]) if self.past_tactics else None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled reply.

    Attributes:
        token_ids: sampled ids, the closing EOS included when there is one, (T,).
        logprobs: log-probabilities of `token_ids` under the sampling policy at the sampling temperature, (T,).
        policy_version: number of optimizer steps of the weights that sampled it.
        stop_reason: EOS or LENGTH.
        text: `token_ids` decoded without special tokens; a thinking block is stripped.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    policy_version: int
    stop_reason: StopReason
    text: str


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The n rollouts of one prompt."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True)
class TrainGroup:
    """What a learner needs of one group: a prompt once, and its replies (ragged).

    Attributes:
        prompt_ids: (P_T,)
        response_ids: G tuples of (T,)
        rollout_logprobs: G tuples of (T,), under the policy that sampled
        advantages: G tuples of (T,), one per reply token
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[tuple[int, ...], ...]
    rollout_logprobs: tuple[tuple[float, ...], ...]
    advantages: tuple[tuple[float, ...], ...]

    @property
    def shared_tokens(self) -> int:
        """Tokens of the shared-prompt row: P + sum of the replies."""
        return len(self.prompt_ids) + sum(map(len, self.response_ids))
