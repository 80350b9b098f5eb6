"""How much memory a training step needs at its peak, by formulae; `benchmarks/sft_memory.py` measures the same step.

Let N = B T tokens in the longest batch (B = optimizer.batch, T = data.max_tokens), with H, L, I, V of the decoder,
q and k the widths of all its query and key heads, b the bytes of a number in the forward pass, r the rank, and c the
vocabulary chunk. It is a bound: every row is as long as it may be, and all of it is reply. Kept all the time:

    base        linear layers in b bytes each, or in nf4: 4 bits, an 8-bit scale for every 64 numbers and a 32-bit one
                for every 256 scales (QLoRA, arXiv 2305.14314, section 3): 0.5159 bytes; embeddings, output layer and
                norms in b bytes
    trained     16 bytes a parameter of adapter and heads: float32 weight and gradient, AdamW's two moments

A block keeps for its backward pass, in bytes a token (what autograd saves; frozen matrices save no input):

    residual      2 H f         the inputs of both norms; f = 4 bytes: norms compute in float32
    queries, keys (q + k) f     inputs of their norms, where the model has them
    LoRA          of each target, its dropped-out input at b bytes, and the mask: b bytes on a processor, 1 on CUDA;
                  without dropout, once the input that several targets share, and nothing for o_proj, whose input
                  attention keeps anyway
    attention     (q + 2 k + q) b      queries, keys, values, output; keys and values repeated to q where padding
                  makes a mask; without a flash kernel, 3 B heads T^2 b of scores besides
    SwiGLU        3 I b         gate, its activation, up

Held at a time:

    kept        without checkpointing, what L blocks keep; with it, N H b for each block
    backward    of one block: what it keeps (with checkpointing, where it is computed again), and the slopes of SwiGLU,
                3 N I b; with nf4, here and in the teacher's pass, the largest matrix unpacked, H I b
    teacher     a block of the pass without gradients over B T tokens: (3 I + 2 H) b a token, and the keys and values of
                B (T + rules), 2 K b a token; with the ends. The rules are read once in a run and kept: 2 K L b a token
    words       LM: 2 numbers of 4 bytes for each of N c places, one of b if b is 2, and N H slopes in 4 + b bytes;
                safety: 4 such numbers, and the teacher's N H states; both with the ends
    ends        what the last norm keeps, 4 N H, the states, N H b, and those that each of the two losses picked, N H b

    peak = base + trained + kept + the largest of backward, teacher, words

Not in it: the CUDA context (about 0.5 GiB), and what the allocator holds in pieces too small to use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sft.config import ConfigError, ModelConfig, Precision, Quantisation, SftConfig
from sft.emotions import EMOTION_CLASSES
from sft.examples import Loss
from sft.planning.shapes import DecoderShape
from sft.safety_rules import RULES
from sft.strategies import STRATEGIES

GIB = 2**30
CONTEXT_GIB = 0.5  # of CUDA, which allocations do not show
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
TRAINED_BYTES = 16
CHARACTERS_PER_TOKEN = 4.0  # of English in a large vocabulary; only for the length of the rules


class Device(StrEnum):
    """Where the step runs: it decides the dtype that `auto` means, and which attention kernel there is."""

    T4 = "t4"
    CUDA = "cuda"  # with bfloat16 and flash attention
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Step:
    """The longest batch of a run: B rows of T tokens. `rules`: tokens before each row that the teacher has read."""

    batch: int
    length: int
    rules: int = 0

    @property
    def tokens(self) -> int:
        return self.batch * self.length


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes. `always`: by part. `kept`: activations until the backward pass. `moments`: by part, one at a time."""

    always: Mapping[str, float]
    kept: float
    moments: Mapping[str, float]
    tokens_per_step: int

    @property
    def peak(self) -> float:
        return sum(self.always.values()) + self.kept + max(self.moments.values())

    @property
    def top(self) -> str:
        """The moment of the peak."""
        return max(self.moments, key=self.moments.__getitem__)

    def describe(self) -> str:
        lines = [f"{name:<34}{size / GIB:8.3f} GiB" for name, size in self.always.items()]
        lines.append(f"{'activations kept':<34}{self.kept / GIB:8.3f} GiB")
        for name, size in self.moments.items():
            mark = "" if name == self.top else "  (not at the peak)"
            lines.append(f"{name:<34}{size / GIB:8.3f} GiB{mark}")
        lines.append(f"{'peak':<34}{self.peak / GIB:8.3f} GiB")
        return "\n".join(lines)


def plan_memory(config: SftConfig, shape: DecoderShape, device: Device, step: Step | None = None) -> MemoryPlan:
    """The estimate for a run's longest batch; see the module's formulae.

    Args:
        step: that of the configuration by default.

    Raises:
        ConfigError: the precision cannot be had on this device, or a target of the adapter cannot be counted.
    """
    _check_targets(config, shape)
    step = step or longest_step(config)
    b = width(config.model, device)
    block = block_bytes(config, shape, device, step, b)
    checkpointed = config.model.gradient_checkpointing
    kept = shape.layers * (step.tokens * shape.hidden * b if checkpointed else block)
    slopes = 3 * step.tokens * shape.intermediate * b
    unpacked = b * shape.hidden * shape.intermediate if config.model.quantisation is Quantisation.nf4 else 0
    moments = {"backward of a block": slopes + (block if checkpointed else 0) + unpacked}
    moments |= _before_backward(config, shape, step, b, unpacked)
    return MemoryPlan(_always(config, shape, step, b), kept, moments, step.tokens * config.optimizer.accumulation)


def _check_targets(config: SftConfig, shape: DecoderShape) -> None:
    unknown = [name for name in config.model.lora.target_modules if name not in shape.matrices()]
    if unknown:
        raise ConfigError(
            f"model.lora.target_modules: {', '.join(unknown)} cannot be counted: the formulae know a block with "
            f"{', '.join(shape.matrices())}"
        )


def longest_step(config: SftConfig) -> Step:
    """The batch with every row at `data.max_tokens`."""
    rules = round(len(RULES) / CHARACTERS_PER_TOKEN) if config.losses.safety else 0
    return Step(config.optimizer.batch, config.data.max_tokens, rules)


def width(model: ModelConfig, device: Device) -> int:
    """Bytes of a number in the forward pass."""
    if device is Device.CPU:
        if model.precision is Precision.float16:
            raise ConfigError("model.precision=float16: only on CUDA; plan with --device t4 or cuda")
        return 2 if model.precision is Precision.bfloat16 else 4
    return 4 if model.precision is Precision.float32 else 2


def block_bytes(config: SftConfig, shape: DecoderShape, device: Device, step: Step, b: int) -> float:
    """What one block keeps for its backward pass."""
    token = 2 * shape.hidden * 4.0
    token += (shape.queries + shape.keys) * 4 if shape.normed_heads else 0
    token += _lora_inputs(config, shape, device, b)
    token += (2 * shape.queries + 2 * shape.keys) * b
    token += 3 * shape.intermediate * b
    scores = 3 * step.batch * shape.heads * step.length**2 * b if device is Device.T4 else 0
    return step.tokens * token + scores


def _always(config: SftConfig, shape: DecoderShape, step: Step, b: int) -> dict[str, float]:
    nf4 = config.model.quantisation is Quantisation.nf4
    blocks = shape.layers * shape.block_parameters()
    rules = {"rules, as the teacher read them": step.rules * 2.0 * shape.keys * shape.layers * b}
    return (rules if config.losses.safety else {}) | {
        f"base, linear layers in {'nf4' if nf4 else f'{8 * b} bits'}": blocks * (NF4_BYTES if nf4 else b),
        "base, words and norms": float(shape.other_parameters() * b),
        "adapter, its slopes and moments": float(TRAINED_BYTES * shape.lora_parameters(config.model.lora)),
        "heads, their slopes and moments": float(TRAINED_BYTES * _head_parameters(config, shape)),
    }


def _head_parameters(config: SftConfig, shape: DecoderShape) -> int:
    heads = config.model.heads
    widths = {Loss.EMOTION: heads.emotion_width, Loss.STRATEGY: heads.strategy_width, Loss.AFFECT: heads.affect_width}
    outputs = {Loss.EMOTION: EMOTION_CLASSES, Loss.STRATEGY: len(STRATEGIES), Loss.AFFECT: 2}
    return sum(
        (shape.hidden + 1) * inner + (inner + 1) * outputs[loss]
        for loss, inner in widths.items()
        if config.losses.of(loss)
    )


def _before_backward(config: SftConfig, shape: DecoderShape, step: Step, b: int, unpacked: float) -> dict[str, float]:
    """The moments between the last block and the backward pass."""
    chunk = min(config.vocabulary_chunk, shape.vocabulary)
    states, losses = step.tokens * shape.hidden, config.losses
    ends = states * (4.0 + b * (1 + bool(losses.lm) + bool(losses.safety)))
    found = {}
    if losses.lm:
        half = b if b == 2 else 0
        found["words of the LM loss"] = step.tokens * chunk * (8.0 + half) + states * (4 + b) + ends
    if losses.safety:
        found["words of the safety loss"] = step.tokens * chunk * 16.0 + states * b + ends
        block = (3 * shape.intermediate + 2 * shape.hidden) * b
        joined = step.batch * (step.length + step.rules) * 2 * shape.keys * b
        found["teacher's pass"] = step.tokens * block + joined + ends + unpacked
    return found


def _lora_inputs(config: SftConfig, shape: DecoderShape, device: Device, b: int) -> float:
    """Bytes a token that the adapter of one block keeps."""
    lora, sizes = config.model.lora, shape.matrices()
    targets = lora.target_modules
    if lora.dropout:
        mask = b if device is Device.CPU else 1
        return sum(sizes[name][0] * (b + mask) for name in targets)
    shared = {"q_proj": "attention", "k_proj": "attention", "v_proj": "attention", "gate_proj": "mlp", "up_proj": "mlp"}
    kept = {shared.get(name, name): sizes[name][0] for name in targets if name != "o_proj"}
    return sum(kept.values()) * b
