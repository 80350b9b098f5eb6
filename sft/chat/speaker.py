"""The model behind a chat: plain Hugging Face weights, or a fine-tuned run whose heads read emotion and strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dialogue.control_tokens import ControlTokens
from dialogue.conversation import Conversation, Message, Turn
from rl.models import resolve_model
from sft.base import open_weights, pick_device
from sft.chat.directives import directive_penalty
from sft.emotions import Emotion
from sft.predict import Predictor, Sampling
from sft.saved import end_ids, load_model, load_tokenizer, pad_id, tuned_folder
from sft.strategies import Strategy
from sft.system_role import system_in_first_turn, takes_system

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatError(ValueError):
    """A turn that cannot be answered, or a model that cannot chat."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the heads say of the seeker's turn and the reply to come; None where there is no such head."""

    emotions: Mapping[Emotion, float] | None = None
    strategies: Mapping[Strategy, float] | None = None


class Speaker:
    """Writes replies. `system`: the system prompt that the model was fine-tuned with, "" where it was not."""

    def __init__(
        self,
        lm: Any,
        tokenizer: PreTrainedTokenizerBase,
        compute: torch.dtype = torch.float32,
        heads: Predictor | None = None,
        system: str = "",
    ) -> None:
        if not tokenizer.chat_template:
            raise ChatError("the tokenizer has no chat template, so it cannot chat; take an instruct model")
        self.tokenizer = tokenizer
        self.system = system
        self.has_heads = heads is not None
        self._lm, self._compute, self._heads = lm.eval(), compute, heads
        self._control = ControlTokens(tokenizer)
        self._takes_system = takes_system(tokenizer)

    def write(
        self, messages: Sequence[Message], sampling: Sampling, seed: int, *, penalise_directives: bool = False
    ) -> str:
        """The model's reply as it is, hidden parts included.

        Raises:
            ChatError: the messages leave no room for a reply, or the chat template refuses them.
        """
        prompt = self._encode(messages)
        ids = torch.tensor([prompt], device=self._lm.device)  # (1, T)
        room = self._room(len(prompt))
        if room < 1:
            said = f"{len(prompt)} tokens are too many for this model, which takes {room + len(prompt)}"
            raise ChatError(f"{said}: write less at once")
        options = sampling.options()
        if penalise_directives:
            options["logits_processor"] = directive_penalty(self.tokenizer, prompt)
        with torch.random.fork_rng(devices=self._gpus()), torch.inference_mode(), self._autocast():
            torch.manual_seed(seed)
            done = self._lm.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=min(sampling.max_new_tokens, room),
                pad_token_id=pad_id(self.tokenizer),
                eos_token_id=end_ids(self.tokenizer, self._lm),
                **options,
            )
        return self.tokenizer.decode(done[0, len(prompt) :], skip_special_tokens=True).strip()

    def read(self, turns: Sequence[Turn]) -> Reading:
        """Emotion of the last turn, the seeker's, and strategy of the reply, as the model was trained to read them."""
        if self._heads is None:
            return Reading()
        found = self._heads.predict(Conversation("chat", tuple(turns)), Sampling(max_new_tokens=0))
        return Reading(found.emotions, found.strategies)

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        plain = self._control.plain_messages(messages)
        written = plain if self._takes_system else system_in_first_turn(plain)
        try:
            text = self.tokenizer.apply_chat_template(
                written, add_generation_prompt=True, tokenize=False, enable_thinking=False
            )
        except Exception as error:  # templates are programs and raise what they like
            raise ChatError(f"the model's chat template refuses the conversation ({error})") from error
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def room(self, messages: Sequence[Message]) -> int:
        """How many tokens the reply to these messages may have; below 1 where they are too long for the model.

        Raises:
            ChatError: the chat template refuses them.
        """
        return self._room(len(self._encode(messages)))

    def _room(self, prompt: int) -> int:
        longest = getattr(self._lm.config.get_text_config(), "max_position_embeddings", None)
        return 1 << 30 if longest is None else longest - prompt

    def _gpus(self) -> list[torch.device]:
        return [self._lm.device] if self._lm.device.type == "cuda" else []

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._lm.device.type, dtype=self._compute, enabled=self._compute != torch.float32)


def load_speaker(model: str, device: torch.device | None = None) -> Speaker:
    """A run of `rapport sft train` (its folder, a checkpoint's, an exported one), else what `resolve_model` finds.

    Raises:
        ModelError, SavedModelError, BaseModelError, ChatError: it cannot be found, opened, or talked to.
    """
    place = device or pick_device()
    tuned = tuned_folder(Path(model).expanduser())
    if tuned is not None:
        loaded = load_model(tuned, place)
        heads = Predictor(loaded.model, loaded.tokenizer, loaded.config.data)
        return Speaker(loaded.model.lm, loaded.tokenizer, loaded.model.compute, heads, loaded.config.data.system)
    folder = resolve_model(model)
    return Speaker(_plain_model(folder, place), load_tokenizer(folder))


def _plain_model(folder: Path, device: torch.device) -> Any:
    dtype: Any = "auto" if device.type == "cuda" else torch.float32
    return open_weights(folder, dtype=dtype).to(device)
