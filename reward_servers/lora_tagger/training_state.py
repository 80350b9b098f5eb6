"""What an interrupted training of one adapter leaves behind, and what a finished one says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dialogue.tactics import Tactic
from reward_servers.lora_tagger.folder import write_whole


class LoraTrainingError(ValueError):
    """A training that cannot begin or go on. The message says why and what to do."""


class TrainingState:
    """An interrupted adapter in a file: weights, optimizer, the steps done, and the generators behind dropout."""

    def __init__(self, folder: Path, tactic: Tactic, fingerprint: str, device: torch.device) -> None:
        self._path, self._made_by = folder / f"{tactic}.pt", folder / f"{tactic}.made-by"
        self._fingerprint, self._device = fingerprint, device

    def save(self, model: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
        from peft import get_peft_model_state_dict

        content = {
            "fingerprint": self._fingerprint,
            "step": step,
            "adapter": get_peft_model_state_dict(model, adapter_name=model.active_adapter),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if self._device.type == "cuda" else None,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".writing")
        torch.save(content, temporary)
        temporary.replace(self._path)

    def restore(self, model: Any, optimizer: torch.optim.Optimizer) -> int:
        """Steps done: 0 where nothing was saved.

        Raises:
            LoraTrainingError: the file is of another training.
        """
        from peft import set_peft_model_state_dict

        content = self._saved()
        if content is None:
            return 0
        set_peft_model_state_dict(model, content["adapter"], adapter_name=model.active_adapter)
        optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["random"].cpu())
        if content["random_cuda"] is not None:
            torch.cuda.set_rng_state(content["random_cuda"].cpu())
        return int(content["step"])

    def check_unfinished(self) -> None:
        """Raises LoraTrainingError where the state that is there is of another training."""
        self._saved()

    def _saved(self) -> dict[str, Any] | None:
        if not self._path.is_file():
            return None
        try:
            content: dict[str, Any] = torch.load(self._path, map_location=self._device, weights_only=True)
        except Exception as error:  # torch raises whatever its unpickler met
            raise LoraTrainingError(
                f"{self._path} cannot be read ({type(error).__name__}): remove it to begin this tactic again"
            ) from error
        if content["fingerprint"] != self._fingerprint:
            raise LoraTrainingError(
                f"{self._path} is of a training with another base, recipe or other annotations: "
                "give another --out, or remove that file to begin this tactic again"
            )
        return content

    def sign(self) -> None:
        """Say what the adapter that is saved next was made by."""
        self._made_by.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._made_by, self._fingerprint)

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

    def check_finished(self) -> None:
        """Raises LoraTrainingError where the adapter that is there was made in another way, or who knows how."""
        if not self._made_by.is_file() or self._made_by.read_text(encoding="utf-8") != self._fingerprint:
            raise LoraTrainingError(
                f"{self._path.parent.parent}: the adapter of {self._path.stem} is there, but was made from another "
                "base, recipe or other annotations: give another --out"
            )
