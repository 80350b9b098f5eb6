"""The model behind a chat: plain Hugging Face weights, or a fine-tuned run whose heads read emotion and strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dialogue.conversation import Conversation, Message, Turn
from rl.models import resolve_model
from sft.base import BaseModelError, pick_device
from sft.chat.directives import directive_penalty
from sft.emotions import Emotion
from sft.predict import Predictor, Sampling
from sft.saved import CONFIG, HEADS_INFO, load_model, load_tokenizer, pad_id
from sft.strategies import Strategy

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

    def write(
        self, messages: Sequence[Message], sampling: Sampling, seed: int, *, penalise_directives: bool = False
    ) -> str:
        """The model's reply as it is, hidden parts included.

        Raises:
            ChatError: the messages leave no room for a reply, or the chat template refuses them.
        """
        prompt = self._encode(messages)
        ids = torch.tensor([prompt], device=self._lm.device)  # (1, T)
        drawn = sampling.temperature > 0
        options: dict[str, Any] = (
            {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
            if drawn
            else {"temperature": None, "top_p": None, "top_k": None}
        )
        if penalise_directives:
            options["logits_processor"] = directive_penalty(self.tokenizer, prompt)
        with torch.random.fork_rng(devices=self._gpus()), torch.inference_mode(), self._autocast():
            torch.manual_seed(seed)
            done = self._lm.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=min(sampling.max_new_tokens, self._room(len(prompt))),
                do_sample=drawn,
                pad_token_id=pad_id(self.tokenizer),
                eos_token_id=self.tokenizer.eos_token_id,
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
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False, enable_thinking=False
            )
        except Exception as error:  # templates are programs and raise what they like
            if messages[0]["role"] != "system":
                raise ChatError(f"the model's chat template refuses the conversation ({error})") from error
            return self._encode(_system_in_first_turn(messages))
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _room(self, prompt: int) -> int:
        longest = getattr(self._lm.config.get_text_config(), "max_position_embeddings", None)
        if longest is None:
            return 1 << 30
        if longest - prompt < 1:
            raise ChatError(f"{prompt} tokens are too many for this model, which takes {longest}: write less at once")
        return longest - prompt

    def _gpus(self) -> list[torch.device]:
        return [self._lm.device] if self._lm.device.type == "cuda" else []

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._lm.device.type, dtype=self._compute, enabled=self._compute != torch.float32)


def load_speaker(model: str, device: torch.device | None = None) -> Speaker:
    """A run of `rapport sft train` (its folder, or that of a checkpoint), else what `resolve_model` finds.

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


def tuned_folder(folder: Path) -> Path | None:
    """The folder that holds adapter and heads: this one, or `best` in the folder of a run."""
    for place in (folder, folder / "best"):
        if (place / CONFIG).is_file() and (place / HEADS_INFO).is_file():
            return place
    return None


def _plain_model(folder: Path, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM

    dtype: Any = "auto" if device.type == "cuda" else torch.float32
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    except (OSError, ValueError) as error:
        raise BaseModelError(f"model {folder}: transformers cannot open it ({error})") from error


def _system_in_first_turn(messages: Sequence[Message]) -> list[Message]:
    """For templates without a system role: its text opens the first turn."""
    system, first, *rest = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]
