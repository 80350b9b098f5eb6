"""Any Hugging Face sequence-classification reward model with one output as Q, such as PsychoCounsel's.

    quality:                                        # in the file that `rapport serve` reads
      loader: reward_servers.reward_model:RewardModel
      folder: models/PsychoCounsel-Llama3-8B-Reward
      num_gpus: 1

The conversation, reply last, is put into the model's own chat template; Q is the single logit, on the model's own
scale. Within a group of replies to one prompt the reward scales it to [0, 1], so the scale does not matter there.
Every reply goes through the model alone, unpadded: its score does not depend on what else was asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dialogue.control_tokens import ControlTokens
from dialogue.conversation import Message
from reward_servers.failures import UnfitItemError
from reward_servers.protocol import ScoreRequest


class RewardModelError(ValueError):
    """A folder that holds no reward model. The message says what is wrong."""


class ReplyTooLongError(UnfitItemError):
    """A reply that, with the turn it answers, is longer than the reward model reads. It is refused, never cut."""


class RewardModel:
    """Not safe for concurrent calls from several threads of one process."""

    def __init__(self, model: Any, tokenizer: Any, version: str) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._control = ControlTokens(tokenizer)
        self._longest = int(getattr(model.config, "max_position_embeddings", 0) or 0)
        self.version = version

    @classmethod
    def load(cls, folder: Path | None = None) -> RewardModel:
        """The model of `folder`; bfloat16 on CUDA, float32 on a CPU.

        Raises:
            RewardModelError: no folder was given, it holds no model with one output, or no chat template.
        """
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        if folder is None or not (folder / "config.json").is_file():
            raise RewardModelError(f"a reward model needs `folder`, that of a Hugging Face model; {folder} is none")
        config = AutoConfig.from_pretrained(folder)
        architectures = getattr(config, "architectures", None) or ["no architecture"]
        if config.num_labels != 1 or not architectures[0].endswith("ForSequenceClassification"):
            raise RewardModelError(
                f"{folder}: {architectures[0]} with {config.num_labels} outputs; expected a sequence-classification "
                "model with one. A head that a checkpoint lacks would be random and score nonsense"
            )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if not tokenizer.chat_template:
            raise RewardModelError(f"{folder}: its tokenizer has no chat template, so it is unknown what it reads")
        cuda = torch.cuda.is_available()
        dtype = torch.bfloat16 if cuda else torch.float32
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, output_loading_info=True
        )
        if loading["missing_keys"]:
            raise RewardModelError(f"{folder}: the weights lack {', '.join(sorted(loading['missing_keys']))[:200]}")
        return cls(model.to("cuda" if cuda else "cpu"), tokenizer, _version(folder))

    def quality(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """The logit of each request, in order.

        Raises:
            ReplyTooLongError: a reply with the turn that it answers is longer than the model reads.
        """
        with torch.inference_mode():
            return [self._quality(request) for request in requests]

    def _quality(self, request: ScoreRequest) -> float:
        ids = torch.tensor([self._token_ids(request)], device=self._model.device)
        return float(self._model(input_ids=ids).logits[0, 0])

    def _token_ids(self, request: ScoreRequest) -> list[int]:
        """The conversation as tokens; where it is too long, the oldest exchanges are left out, two turns at a time."""
        said = (*request.history, Message(role="assistant", content=request.response))
        messages = self._control.plain_messages(said)
        while True:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False)
            ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            if not self._longest or len(ids) <= self._longest:
                return ids
            if len(messages) <= 2:
                raise ReplyTooLongError(
                    f"request {request.id!r}: {len(ids)} tokens, but the reward model reads {self._longest}"
                )
            messages = messages[2:]


def _version(folder: Path) -> str:
    """Hash of configuration, tokenizer and of the weights' names, sizes and first and last megabyte: 8B weigh 16 GB."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja", ".safetensors", ".model"):
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(2**20))
                file.seek(max(0, path.stat().st_size - 2**20))
                digest.update(file.read())
    return digest.hexdigest()[:12]
