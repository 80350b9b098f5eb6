"""Training the ten adapters: one binary question per tactic, the loss on the answer's token alone.

The recipe is MINT's (arXiv 2604.11742, released taggers): LoRA of rank 64, alpha 32, dropout 0.05, learning rate 5e-5,
3 epochs, batches of 24 x 4, prompts of at most 4,096 tokens. The sources name neither a schedule nor any treatment of
the rarer answer: here the rate falls linearly to 0 without warm-up, and every answer counts the same unless
`balance_power` says otherwise.

    tactic: base frozen, fresh adapter -> epochs x batches -> saved, whole -> the next tactic
                                            | every `save_every` steps: adapter, optimizer, generators -> .training/
A tactic whose adapter is saved is not trained again, and one that was interrupted goes on from its last saved step,
with the same losses as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dialogue.library_noise import silence_bitsandbytes
from dialogue.tactics import TACTICS, Tactic
from reward_servers.lora_tagger.encoding import PromptEncoder
from reward_servers.lora_tagger.folder import ADAPTER_CONFIG
from reward_servers.lora_tagger.prompts import Annotations
from reward_servers.lora_tagger.training_state import LoraTrainingError, TrainingState

STATE_FOLDER = ".training"
Progress = Callable[[Tactic, int, int, float], None]
"""Called after every step with the tactic, steps done, steps in all and the step's loss."""


class NotFiniteError(RuntimeError):
    """The loss is no number any more; the last saved step is still there."""


@dataclass(frozen=True, slots=True)
class LoraRecipe:
    """Everything that decides what the adapters become, besides base and annotations.

    Attributes:
        batch_size: sentences of one optimizer step; the paper's 24 x 4.
        micro_batch: sentences computed at once. Decides memory and speed, not the result (up to the order of sums).
        balance_power: an answer counts (its number in the annotations) ** -power; 0 counts all alike, 1 makes both
            answers weigh the same.
        target_modules: which layers get an adapter; those of attention and MLP in Llama- and Qwen-like models.
    """

    rank: int = 64
    alpha: int = 32
    dropout: float = 0.05
    learning_rate: float = 5e-5
    epochs: int = 3
    batch_size: int = 96
    micro_batch: int = 24
    weight_decay: float = 0.0
    clip: float = 1.0
    balance_power: float = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("rank", "alpha", "epochs", "batch_size", "micro_batch", "learning_rate", "clip"):
            if not getattr(self, key) > 0:
                raise LoraTrainingError(f"{key} is {getattr(self, key)}, but must be above 0")
        if not 0 <= self.dropout < 1:
            raise LoraTrainingError(f"dropout is {self.dropout}, but must be in [0, 1)")


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt of T tokens, the token that answers it, and how much it counts."""

    token_ids: tuple[int, ...]
    answer_id: int
    weight: float


def examples_of(tactic: Tactic, annotations: Annotations, encoder: PromptEncoder, power: float) -> list[Example]:
    """The annotated sentences as prompts and answers; raises PromptTooLongError for one that does not fit."""
    weights = answer_weights(annotations, power)
    return [
        Example(
            tuple(encoder.encode(tactic, sentence.context, sentence.sentence)),
            encoder.answer_ids[sentence.holds],
            weights[sentence.holds],
        )
        for sentence in annotations.sentences
    ]


def answer_weights(annotations: Annotations, power: float) -> tuple[float, float]:
    """Of a 0 and of a 1: (its number) ** -power, scaled so that the mean over the sentences is 1."""
    ones = annotations.positives
    counts = (len(annotations.sentences) - ones, ones)
    if not all(counts):
        return 1.0, 1.0
    raw = (counts[0] ** -power, counts[1] ** -power)
    mean = sum(weight * count for weight, count in zip(raw, counts, strict=True)) / sum(counts)
    return raw[0] / mean, raw[1] / mean


class AdapterTrainer:
    """Trains one adapter after the other on one frozen base.

    Args:
        base: folder or hub id; its weights stay as they are.
        out: where adapters go, one folder per tactic.
        recipe: how.
        dtype: of the base, a torch dtype's name. Adapters are trained in float32 whatever it is.
        save_every: optimizer steps between saved states.

    Raises:
        LoraTrainingError: the base cannot be loaded or lacks the layers of the recipe.
    """

    def __init__(self, base: str, out: Path, recipe: LoraRecipe, dtype: str = "float32", save_every: int = 10) -> None:
        from transformers import AutoModelForCausalLM

        self._out, self._recipe, self._save_every = out, recipe, save_every
        self._base, self._dtype = base, dtype
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            lm = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
        except (OSError, ValueError) as error:
            raise LoraTrainingError(f"{base}: not a model that transformers can load ({error})") from error
        self._lm = lm.requires_grad_(False).to(self._device)
        if self._device.type == "cuda":  # 24 long prompts at once on an 8B base fit no card otherwise
            self._lm.gradient_checkpointing_enable({"use_reentrant": False})

    def check(self, tactic: Tactic, examples: Sequence[Example]) -> None:
        """To be asked of all tactics before the first is trained.

        Raises:
            LoraTrainingError: what is in the way of `tactic` was made by another recipe, base or other annotations.
        """
        state, folder = self._state(tactic, examples), self._out / tactic
        if (folder / ADAPTER_CONFIG).is_file():
            state.check_finished()
        elif folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise LoraTrainingError(f"{folder} is no adapter and in the way of one: move it, or give another --out")
        else:
            state.check_unfinished()

    def train(self, tactic: Tactic, examples: Sequence[Example], progress: Progress | None = None) -> list[float]:
        """Train and save the adapter of `tactic`, or go on with it; the mean loss of each step from here on.

        Raises:
            LoraTrainingError: a state saved by another recipe, base or other annotations is in the way.
            NotFiniteError: the loss became NaN or infinite.
        """
        self.check(tactic, examples)
        state = self._state(tactic, examples)
        if (self._out / tactic / ADAPTER_CONFIG).is_file():
            return []
        model = self._with_adapter(tactic)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self._recipe.learning_rate, weight_decay=self._recipe.weight_decay)
        batches = list(batches_of(examples, self._recipe))
        done = state.restore(model, optimizer)
        losses = []
        model.train()
        for step, batch in enumerate(batches[done:], start=done + 1):
            for group in optimizer.param_groups:
                group["lr"] = self._recipe.learning_rate * (len(batches) - step + 1) / len(batches)
            losses.append(self._step(model, optimizer, parameters, batch))
            if step % self._save_every == 0 and step < len(batches):
                state.save(model, optimizer, step)
            if progress is not None:
                progress(tactic, step, len(batches), losses[-1])
        state.sign()
        self._save(model, tactic)
        state.forget()
        self._lm = model.unload()
        return losses

    def _state(self, tactic: Tactic, examples: Sequence[Example]) -> TrainingState:
        return TrainingState(self._out / STATE_FOLDER, tactic, self._fingerprint(examples), self._device)

    def _with_adapter(self, tactic: Tactic) -> Any:
        """The base under a fresh adapter, drawn from the recipe's seed and the tactic."""
        silence_bitsandbytes()
        from peft import LoraConfig, get_peft_model

        recipe = self._recipe
        torch.manual_seed(recipe.seed * len(TACTICS) + TACTICS.index(tactic))
        settings = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=list(recipe.target_modules),
            bias="none",
            task_type="CAUSAL_LM",
        )
        try:
            return get_peft_model(self._lm, settings, adapter_name=tactic.value)
        except ValueError as error:
            raise LoraTrainingError(f"{self._base}: it has no layers {recipe.target_modules} ({error})") from error

    def _step(
        self, model: Any, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], batch: Sequence[Example]
    ) -> float:
        """One optimizer step on the weighted mean loss of `batch`, summed over its micro-batches."""
        total = 0.0
        optimizer.zero_grad(set_to_none=True)
        for start in range(0, len(batch), self._recipe.micro_batch):
            loss = answer_loss(model, batch[start : start + self._recipe.micro_batch], self._device) / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._recipe.clip)
        if not torch.isfinite(norm) or total != total:
            raise NotFiniteError(f"the loss is {total} and its gradient's norm {float(norm)}: lower the learning rate")
        optimizer.step()
        return total

    def _save(self, model: Any, tactic: Tactic) -> None:
        """peft writes an adapter into a folder of its name; it takes its place only when it is whole."""
        partial = self._out / STATE_FOLDER / "saving"
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial, selected_adapters=[tactic.value])
        (partial / tactic).rename(self._out / tactic)
        shutil.rmtree(partial)

    def _fingerprint(self, examples: Sequence[Example]) -> str:
        digest = hashlib.sha256(json.dumps([self._base, self._dtype, asdict(self._recipe)]).encode())
        for example in examples:
            digest.update(repr((example.token_ids, example.answer_id)).encode())
        return digest.hexdigest()


def answer_loss(model: Any, batch: Sequence[Example], device: torch.device) -> Tensor:
    """Weighted sum over B examples of -log p(answer token | prompt), over the whole vocabulary.

    Prompts are padded on the left, so that the answers of all of them are read at the last place; only its logits are
    computed.
    """
    longest = max(len(example.token_ids) for example in batch)
    ids = torch.zeros((len(batch), longest), dtype=torch.long)  # (B, T)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(batch):
        ids[row, longest - len(example.token_ids) :] = torch.tensor(example.token_ids)
        mask[row, longest - len(example.token_ids) :] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    output = model(
        input_ids=ids.to(device), attention_mask=mask.to(device), position_ids=positions.to(device), logits_to_keep=1
    )
    answers = torch.tensor([example.answer_id for example in batch], device=device)
    weights = torch.tensor([example.weight for example in batch], device=device)
    losses = functional.cross_entropy(output.logits[:, -1].float(), answers, reduction="none")
    return (losses * weights).sum()


def batches_of(examples: Sequence[Example], recipe: LoraRecipe) -> Iterator[list[Example]]:
    """All examples once an epoch in an order drawn from the seed; within a batch by length, to pad little."""
    for epoch in range(recipe.epochs):
        order = list(examples)
        random.Random(f"{recipe.seed}-{epoch}").shuffle(order)
        for start in range(0, len(order), recipe.batch_size):
            yield sorted(order[start : start + recipe.batch_size], key=lambda example: len(example.token_ids))
