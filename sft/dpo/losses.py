"""The loss of a preference pair, on log-probabilities of whole replies.

For a prompt x with a chosen reply c and a rejected reply r, and pi the policy and ref the frozen reference:

    reward(y) = beta (log pi(y | x) - log ref(y | x))        a sum over the tokens of y and the end of its turn
    h = reward(c) - reward(r)                                 the reward margin
    L = - log sigmoid(h)                                      DPO: Rafailov et al. 2023, arXiv 2305.18290, eq. 7

With label smoothing eps, for labels of which a share eps is the wrong way round (conservative DPO, Mitchell 2023), and
an offset delta for pairs whose rejected reply breaks a safety rule (DPO with an offset: Amini et al. 2024,
arXiv 2402.10571), which is 0 for all other pairs:

    z = h - delta
    L = - (1 - eps) log sigmoid(z) - eps log sigmoid(-z)

So a violation is not merely ranked below: the loss falls until its reward is lower by delta more than that of an
ordinary rejected reply would be. eps = 0 and delta = 0 give plain DPO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional

from sft.batching import Batch
from sft.dpo.config import PreferenceConfig
from sft.examples import Loss
from sft.model import SftModel
from sft.vocabulary import token_nll


class PairLogprobs(NamedTuple):
    """Log-probabilities in nats of B chosen and B rejected replies, (B,) each, float32."""

    chosen: torch.Tensor
    rejected: torch.Tensor


@dataclass(frozen=True, slots=True)
class PairScores:
    """What the policy makes of B pairs; (B,) each.

    Attributes:
        loss: of each pair; has a gradient where the policy's log-probabilities have one.
        chosen, rejected: rewards, detached.
    """

    loss: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor

    @property
    def margin(self) -> torch.Tensor:
        """h: without the safety offset."""
        return self.chosen - self.rejected


def pair_logprobs(model: SftModel, batch: Batch, chunk: int) -> PairLogprobs:
    """Of the model as it is set now.

    Args:
        batch: 2B rows on the model's device, B chosen replies and then the rejected ones in the same order; LM spots
            name the reply tokens.
        chunk: words of the vocabulary per product.
    """
    spots = batch.spots[Loss.LM]
    states = model.states(batch.ids, batch.attention)  # (2B, T, H)
    nll = token_nll(spots.pick(states), model.output_weight, spots.targets, chunk)  # (M,)
    rows = torch.zeros(len(batch.ids), device=nll.device, dtype=nll.dtype).index_add(0, spots.rows, -nll)
    chosen, rejected = rows.chunk(2)
    return PairLogprobs(chosen, rejected)


def preference_scores(
    policy: PairLogprobs, reference: PairLogprobs, violation: torch.Tensor, config: PreferenceConfig
) -> PairScores:
    """The loss of each of B pairs, see the module's formulae.

    Args:
        violation: (B,) bool, whether the rejected reply breaks a safety rule.
    """
    chosen = config.beta * (policy.chosen - reference.chosen)
    rejected = config.beta * (policy.rejected - reference.rejected)
    z = chosen - rejected - config.safety_margin * violation.to(chosen.dtype)
    smoothed = config.label_smoothing
    loss = -(1 - smoothed) * functional.logsigmoid(z) - smoothed * functional.logsigmoid(-z)
    return PairScores(loss, chosen.detach(), rejected.detach())
