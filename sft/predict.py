"""Inference with a fine-tuned model: the reply, and what the heads say, from one call.

predictor = Predictor.load("runs/sft-quickstart/best")
prediction = predictor.predict(conversation)
prediction.reply, prediction.emotion, prediction.emotions[prediction.emotion]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dialogue.conversation import Conversation
from sft.config import ConfigError, DataConfig
from sft.emotions import EMOTIONS, Emotion
from sft.examples import Affect, Loss
from sft.model import SftModel
from sft.saved import end_ids, load_model, pad_id
from sft.strategies import STRATEGIES, Strategy
from sft.tokens import ChatTokens, TokenConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is generated; temperature 0 takes the likeliest token each time, 0 new tokens asks only the heads.

    Raises:
        ConfigError: a number below 0 or not finite, or `top_p` not above 0 and at most 1.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens}: must be 0 or more")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature={self.temperature}: must be a number from 0 up")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p}: must lie above 0, up to 1")

    def options(self) -> dict[str, Any]:
        """For `generate`: the likeliest token, or a draw from the nucleus; no `top_k` of the model's own settings."""
        if self.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to a conversation.

    Attributes:
        reply: "" where the model closed its turn at once.
        emotions: probability of each of the 27 in the seeker's last turn, summing to 1; None without that head.
        strategies: probability of each of the 8 for the reply, read before it; None without that head.
        affect: None without that head.
    """

    reply: str
    emotions: Mapping[Emotion, float] | None
    strategies: Mapping[Strategy, float] | None
    affect: Affect | None

    @property
    def emotion(self) -> Emotion | None:
        return max(self.emotions, key=self.emotions.__getitem__) if self.emotions else None

    @property
    def strategy(self) -> Strategy | None:
        return max(self.strategies, key=self.strategies.__getitem__) if self.strategies else None


class Predictor:
    """A loaded model that answers conversations."""

    def __init__(self, model: SftModel, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._chat = ChatTokens(tokenizer, token_config(data))

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | None = None) -> Predictor:
        """See `sft.saved.load_model`."""
        loaded = load_model(folder, device)
        return cls(loaded.model, loaded.tokenizer, loaded.config.data)

    @torch.no_grad()
    def predict(self, conversation: Conversation, sampling: Sampling | None = None) -> Prediction:
        """Answer the seeker's last turn.

        Raises:
            DataError: the last turn is not the seeker's, or the template refuses the conversation.
        """
        prompt = self._chat.prompt(conversation)
        ids = torch.tensor([prompt.ids], device=self._model.device)  # (1, T)
        mask = torch.ones_like(ids)
        states = self._model.states(ids, mask)[0]  # (T, H)
        emotions = self._probabilities(Loss.EMOTION, states[prompt.seeker_end])
        strategies = self._probabilities(Loss.STRATEGY, states[-1])
        return Prediction(
            self._reply(ids, mask, sampling or Sampling()),
            None if emotions is None else dict(zip(EMOTIONS, emotions, strict=True)),
            None if strategies is None else dict(zip(STRATEGIES, strategies, strict=True)),
            self._affect(states[prompt.seeker_end]),
        )

    def _probabilities(self, loss: Loss, state: torch.Tensor) -> list[float] | None:
        """(H,) -> one probability for each class."""
        if loss.value not in self._model.heads:
            return None
        return self._model.heads.read(loss, state[None])[0].softmax(-1).tolist()

    def _affect(self, state: torch.Tensor) -> Affect | None:
        if Loss.AFFECT.value not in self._model.heads:
            return None
        return Affect(*self._model.heads.read(Loss.AFFECT, state[None])[0].tolist())

    def _reply(self, ids: torch.Tensor, mask: torch.Tensor, sampling: Sampling) -> str:
        if sampling.max_new_tokens == 0:
            return ""
        compute = self._model.compute
        with torch.autocast(ids.device.type, dtype=compute, enabled=compute != torch.float32):
            done = self._model.lm.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=end_ids(self._tokenizer, self._model.lm),
                pad_token_id=pad_id(self._tokenizer),
                **sampling.options(),
            )
        return self._tokenizer.decode(done[0, ids.shape[1] :], skip_special_tokens=True).strip()


def token_config(data: DataConfig) -> TokenConfig:
    return TokenConfig(data.max_tokens, data.system, data.enable_thinking)
