"""A model in a local Hugging Face folder, run by transformers on the processor: one question at a time, no server.

Meant for small models and few questions. For more, serve the folder with vLLM and give its URL.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dialogue.control_tokens import ControlTokens
from dialogue.conversation import Message
from evaluation.files import EvaluationDataError
from evaluation.replies import Question, Reply, ReplyFailure, ReplyResult, Sampling
from reward_servers.protocol import FailureKind


class LocalModel:
    """The causal language model in `folder`, with the chat template of its tokenizer.

    Args:
        thinking: what the template is told of it; None says nothing, and the template does as it does.

    Raises:
        EvaluationDataError: the folder holds no such model, or its tokenizer has no chat template.
    """

    def __init__(self, folder: Path, thinking: bool | None = None) -> None:
        check_folder(folder)
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True).eval()
        except (OSError, ValueError) as error:
            raise EvaluationDataError(f"{folder}: not a model that transformers can load ({error})") from error
        if not self._tokenizer.chat_template:
            raise EvaluationDataError(f"{folder}: the tokenizer has no chat template; expected a chat model")
        self._template_options = template_options(thinking)
        self.identity = identity_of(folder, thinking)
        self._one_at_a_time = threading.Lock()

    async def reply(self, question: Question, sampling: Sampling) -> ReplyResult:
        return await asyncio.to_thread(self._generate, question, sampling)

    def _generate(self, question: Question, sampling: Sampling) -> ReplyResult:
        import torch

        ids = torch.tensor([prompt_ids(self._tokenizer, question.messages, self._template_options)])  # (1, T)
        prompt = ids.shape[1]
        room = self._model.config.max_position_embeddings - prompt
        if room < 1:
            return too_long(question.id, prompt, room + prompt)
        with self._one_at_a_time, torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(sampling.seed)
            tokens = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pad_token_id=self._padding(),
                **_arguments(sampling, room),
            )
        return Reply(question.id, self._tokenizer.decode(tokens[0, prompt:], skip_special_tokens=True))

    def _padding(self) -> int | None:
        padding = self._tokenizer.pad_token_id
        return padding if padding is not None else self._tokenizer.eos_token_id


def _arguments(sampling: Sampling, room: int) -> dict[str, Any]:
    """For `generate`; top-k and top-p of the folder's own generation config are switched off, as the protocol asks."""
    length = {"max_new_tokens": min(sampling.max_tokens, room)}
    if sampling.temperature == 0:
        return {**length, "do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    return {**length, "do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}


def check_folder(folder: Path) -> None:
    """Raises EvaluationDataError where `folder` is no model's: to be called before anything that takes long."""
    if not (folder / "config.json").is_file():
        raise EvaluationDataError(f"{folder}: no config.json there; expected the Hugging Face folder of a model")


def too_long(question: str, tokens: int, most: int) -> ReplyFailure:
    """A prompt that leaves no room for a reply: it is never cut."""
    message = f"{tokens} tokens are too many for this model: it takes {most}, its reply included"
    return ReplyFailure(question, FailureKind.INVALID_REQUEST, message, attempts=1)


def prompt_ids(tokenizer: Any, messages: Sequence[Message], options: Mapping[str, bool]) -> list[int]:
    """(T,) token ids up to and including the opening of the reply; control tokens that a message spells out are text.

    Args:
        options: of the chat template, as `template_options` gives them.
    """
    encoded = tokenizer.apply_chat_template(
        ControlTokens(tokenizer).plain_messages(messages), add_generation_prompt=True, return_dict=True, **options
    )
    return list(encoded["input_ids"])


def template_options(thinking: bool | None) -> dict[str, bool]:
    """What a chat template is told besides the messages; those that know no thinking take no notice."""
    return {} if thinking is None else {"enable_thinking": thinking}


def identity_of(folder: Path, thinking: bool | None) -> str:
    """Name of the weights in the keys of the cache."""
    told = "" if thinking is None else f" thinking {'on' if thinking else 'off'}"
    return f"{folder.resolve().name} {_fingerprint(folder)}{told}"


def _fingerprint(folder: Path) -> str:
    """The first 16 digits of a SHA-256 over names and contents of the folder's files: other weights, other replies."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
