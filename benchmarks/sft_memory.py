"""Peak memory and speed of a fine-tuning step, beside the estimate of `rapport sft plan`; weights are random.

    .venv/bin/python -m benchmarks.sft_memory --shape small --length 256 --batch 2
    python -m benchmarks.sft_memory --shape Qwen/Qwen3-8B --preset t4 --cap 15      on a GPU: nf4, 1,024 tokens, batch 4

It runs the steps that `rapport sft train` runs: LoRA, both heads, LM and safety losses over the vocabulary in chunks,
the teacher with the adapter off behind the rules, AdamW. Left out: reading data, and accumulation, which adds nothing
to the peak. Every row has the full length and is all reply, as in the plan.

Measured: on CUDA `torch.cuda.max_memory_allocated`, with the process capped at `--cap` GiB. On a processor the sizes of
all parameters, buffers and moments, and on them the highest sum of what the allocator gave out and took back during a
step, as the profiler of torch records it; resident memory would count what libraries and the allocator keep besides.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sft.base import compute_dtype, keep_slopes, pick_device
from sft.batching import Batch, Spots, collate
from sft.config import Quantisation, SftConfig
from sft.config_loading import load_config
from sft.emotions import Emotion
from sft.examples import Loss, Source
from sft.heads import Heads, heads_wanted
from sft.loop import make_optimizer
from sft.losses import joint_loss
from sft.model import SftModel, add_adapter
from sft.planning.memory import GIB, Device, Step, longest_step, plan_memory
from sft.planning.shapes import DecoderShape, config_of, shape_of
from sft.strategies import STRATEGIES
from sft.terms import TermOptions, batch_terms
from sft.tokens import EmotionRead, ReplySpan, StrategyRead, TokenSequence

SMALL = DecoderShape(256, 4, 8, 4, 32, 768, 8192, tied=True, normed_heads=True)


@dataclass(frozen=True)
class Measured:
    """`peak`: bytes. `tokens_per_s`: of the fastest step, the teacher's tokens not counted."""

    peak: float
    tokens_per_s: float


class TeacherOfTokens:
    """The teacher's work without a tokenizer: the same replies behind `rules` more tokens, adapter off."""

    def __init__(self, model: SftModel, rules: int) -> None:
        self._model = model
        with model.as_teacher():
            self._opening = model.opening((1,) * rules)

    def kept(self) -> list[torch.Tensor]:
        layers = self._opening.cache.layers if self._opening else []
        return [part for layer in layers for part in (layer.keys, layer.values)]

    def reply_states(self, sequences: Sequence[TokenSequence], student: Spots) -> torch.Tensor:
        batch = collate(sequences, 0).to(self._model.device)
        with self._model.as_teacher():
            if self._opening is None:
                states = self._model.states(batch.ids, batch.attention)
            else:
                states = self._model.states_after(self._opening, batch.ids, batch.attention)
        return batch.spots[Loss.SAFETY].pick(states)


def rows_of(step: Step, shape: DecoderShape, seed: int = 0) -> list[TokenSequence]:
    """Random tokens: one of prompt, the rest reply, with a label for each head."""
    draw = torch.Generator().manual_seed(seed)
    losses = frozenset({Loss.LM, Loss.EMOTION, Loss.STRATEGY, Loss.SAFETY})
    rows = []
    for number in range(step.batch):
        ids = tuple(torch.randint(shape.vocabulary, (step.length,), generator=draw).tolist())
        reads = (EmotionRead(0, (Emotion.JOY,)),), (StrategyRead(0, STRATEGIES[0]),)
        rows.append(TokenSequence(str(number), Source.OWN, losses, (), ids, (ReplySpan(1, 1, step.length),), *reads))
    return rows


def build(config: SftConfig, shape: DecoderShape, length: int, device: torch.device) -> SftModel:
    """The model of a run with random weights."""
    from transformers import AutoModelForCausalLM

    dtype = compute_dtype(config.model.precision, device)
    described = config_of(shape, length)
    torch.manual_seed(0)
    if config.model.quantisation is Quantisation.nf4:
        lm = _random_nf4(described, dtype, device)
    else:
        lm = AutoModelForCausalLM.from_config(described, dtype=dtype, attn_implementation="sdpa").to(device)
    lm.requires_grad_(False)
    if config.model.gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
        lm.enable_input_require_grads()
    heads = Heads(shape.hidden, config.model.heads, heads_wanted(config.losses)).to(device)
    return SftModel(add_adapter(lm, config.model), heads, dtype)


def _random_nf4(described: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Built without weights, then filled layer by layer: the whole model in full precision would not fit the card."""
    import bitsandbytes as bnb
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(described, dtype=dtype, attn_implementation="sdpa")
    for parent in list(lm.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                layer = bnb.nn.Linear4bit(
                    child.in_features,
                    child.out_features,
                    bias=False,
                    compute_dtype=dtype,
                    quant_type="nf4",
                    device="meta",
                )
                full = torch.randn(child.out_features, child.in_features, dtype=dtype, device="cpu") * 0.02
                packed = bnb.nn.Params4bit(full, requires_grad=False, compress_statistics=True, quant_type="nf4")
                layer.weight = packed.to(device)
                setattr(parent, name, layer)
    for module in lm.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if value.is_meta:
                filled = torch.randn(value.shape, dtype=dtype, device=device) * 0.02
                setattr(module, name, nn.Parameter(filled, requires_grad=False))
    lm.tie_weights()
    keep_slopes(lm)
    lm.model.rotary_emb = type(lm.model.rotary_emb)(lm.config, device=device)
    return lm


def update(model: SftModel, teacher: TeacherOfTokens, rows: list[TokenSequence], batch: Batch, config: SftConfig,
           optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:  # fmt: skip
    """What `sft.training.Trainer.update` does with one batch."""
    options = TermOptions(config.losses, config.safety.tau, config.vocabulary_chunk)
    states = model.states(batch.ids, batch.attention)
    terms = batch_terms(model, states, teacher, rows, batch, options)  # type: ignore[arg-type]
    total = joint_loss(terms, config.losses, batch.counts()).total
    assert total is not None
    del states, terms
    scaler.scale(total).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.trained().values(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


def measure(config: SftConfig, shape: DecoderShape, step: Step, steps: int) -> Measured:
    """Run `steps` updates, at least 2, and look at all but the first, which allocates AdamW's moments."""
    device = pick_device()
    model = build(config, shape, step.length + step.rules, device).train()
    optimizer = make_optimizer(model, config.optimizer)
    scaler = torch.amp.GradScaler(device.type, enabled=model.compute is torch.float16)
    rows = rows_of(step, shape)
    batch, teacher = collate(rows, 0).to(device), TeacherOfTokens(model, step.rules)

    def run() -> float:
        started = time.perf_counter()
        update(model, teacher, rows, batch, config, optimizer, scaler)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    run()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        seconds = [run() for _ in range(steps - 1)]
        return Measured(float(torch.cuda.max_memory_allocated()), step.tokens / min(seconds))
    seconds = [run() for _ in range(steps - 1)]
    return Measured(_standing(model, teacher, optimizer) + _highest(run), step.tokens / min(seconds))


def _standing(model: nn.Module, teacher: TeacherOfTokens, optimizer: torch.optim.Optimizer) -> float:
    """Bytes of parameters, buffers, moments and of the rules that were read, what is shared counted once."""
    moments = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    tensors = [*model.parameters(), *model.buffers(), *moments, *teacher.kept()]
    for weight in model.parameters():  # 4-bit weights have their scales beside them
        tensors += _tensors_in(getattr(weight, "quant_state", None))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return float(sum(storages.values()))


def _tensors_in(state: Any) -> list[torch.Tensor]:
    """Of a `bitsandbytes` QuantState, whose scales may be quantised themselves."""
    if state is None:
        return []
    own = [value for value in (state.absmax, state.code, state.offset) if torch.is_tensor(value)]
    return own + _tensors_in(state.state2 if state.nested else None)


def _highest(run: Any) -> float:
    """The highest sum of allocations less frees, in bytes, while `run` runs on a processor."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    highest = held = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return float(highest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small", help="small, a name that `rapport sft plan` knows, or a folder")
    parser.add_argument("--preset", default="quickstart", help="of configs/sft: losses, LoRA, quantisation")
    parser.add_argument("--length", type=int, help="tokens of a row; data.max_tokens by default")
    parser.add_argument("--batch", type=int, help="rows; optimizer.batch by default")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--cap", type=float, default=0.0, help="GiB that this process may use on CUDA; 0 for all")
    parser.add_argument("overrides", nargs="*", help="key=value of the preset")
    asked = parser.parse_args()
    config = load_config(asked.preset, asked.overrides)
    shape = SMALL if asked.shape == "small" else shape_of(asked.shape)
    longest = longest_step(config)
    step = Step(asked.batch or longest.batch, asked.length or longest.length, longest.rules)
    device = Device.CPU
    if torch.cuda.is_available():
        device = Device.CUDA if torch.cuda.get_device_capability() >= (8, 0) else Device.T4
        if asked.cap:
            share = asked.cap * GIB / torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(share)
    plan = plan_memory(config, shape, device, step)
    print(f"{step.batch} x {step.length} tokens on {device.value}, {step.rules} more for the teacher")
    print(plan.describe())
    found = measure(config, shape, step, max(asked.steps, 2))
    off = plan.peak / found.peak - 1
    print(f"measured peak {found.peak / GIB:.3f} GiB, {found.tokens_per_s:.0f} tokens/s; the plan is {off:+.1%} off")


if __name__ == "__main__":
    main()
