"""Frozen MiniLM states of one text, pooled. Each text goes through the encoder alone, so nothing depends on a batch."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from dialogue.library_noise import quiet_transformers
from reward_servers.encoder import encoder_folder

HIDDEN = 384
REPLY_PARTS = 6  # pooled vectors of `TextEmbedder.embed`
MEANING = slice(2 * HIDDEN, 3 * HIDDEN)  # where the last layer's mean lies in them
_MAX_TOKENS = 128
_REMEMBERED = 1024


class TextEmbedder:
    """Pools several layers of the encoder over one text. Remembers recent texts: a group shares its history."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = encoder_folder()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        with quiet_transformers():
            self._model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()

    def embed(self, text: str) -> Tensor:
        """(6 H,): means of layers 1, 3 and 6, spread of layer 3, maximum of layer 6, layer 4 at the text's end.

        Of a text of more than 128 tokens the beginning and the end are read. An empty text gives zeros.
        """
        if text not in self._remembered:
            self._remembered[text] = self._compute(text)
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(text)
        return self._remembered[text]

    def _compute(self, text: str) -> Tensor:
        typed = {"add_special_tokens": False, "split_special_tokens": True}  # a "[SEP]" that somebody typed is text
        ids = self._tokenizer(text, truncation=False, verbose=False, **typed)["input_ids"]
        if not ids:
            return torch.zeros(REPLY_PARTS * HIDDEN)
        if len(ids) > _MAX_TOKENS:
            ids = ids[: _MAX_TOKENS // 2] + ids[-_MAX_TOKENS // 2 :]
        ids = [self._tokenizer.cls_token_id, *ids, self._tokenizer.sep_token_id]
        with torch.inference_mode():
            output = self._model(input_ids=torch.tensor([ids]), output_hidden_states=True)
            layers = [state[0, 1:-1] for state in output.hidden_states]  # each (T, H)
            parts = [
                layers[1].mean(0),
                layers[3].mean(0),
                layers[6].mean(0),
                layers[3].std(0, correction=0),
                layers[6].amax(0),
                layers[4][-4:].mean(0),
            ]
            return torch.cat(parts)
