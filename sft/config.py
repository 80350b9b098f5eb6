"""The configuration of a fine-tuning run: frozen dataclasses; `sft.config_loading` fills and checks them.

Precedence, lowest first: the defaults below, the preset (`configs/sft/<name>.yaml` or a path), overrides. Unknown keys
are errors. Enum members are lower-case because OmegaConf reads an enum by its member's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from rl.config import ConfigError as ConfigError
from sft.weights import LossWeights


class Precision(StrEnum):
    """What the forward pass computes in. Adapters, heads and the optimizer are float32 throughout."""

    auto = "auto"  # float32 on a processor; bfloat16 on GPUs that have it, else float16 with loss scaling
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Quantisation(StrEnum):
    """How the frozen base is kept in memory."""

    none = "none"
    nf4 = "nf4"  # 4 bits a weight (QLoRA, arXiv 2305.14314), through bitsandbytes


class Decay(StrEnum):
    """The learning rate after its warm-up; each but `constant` ends at 0."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class SafetyScope(StrEnum):
    """The examples whose replies the rules-prompted teacher reads."""

    sensitive = "sensitive"  # where a seeker's turn touches a topic of `sft.safety_rules`
    every = "every"  # all that have a reply


@dataclass(frozen=True)
class LoraConfig:
    """The adapter; its defaults are the report's."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class HeadsConfig:
    """Linear(H, width) - ReLU - Dropout - Linear(width, classes), one for each loss that is on and reads labels."""

    emotion_width: int = 512
    strategy_width: int = 256
    affect_width: int = 128
    dropout: float = 0.1


@dataclass(frozen=True)
class ModelConfig:
    """The base. `path`: a Hugging Face folder, a hub id, or a known small model (smollm2-135m, tiny-qwen3)."""

    path: str = "smollm2-135m"
    precision: Precision = Precision.auto
    quantisation: Quantisation = Quantisation.none
    gradient_checkpointing: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how they are rendered.

    Attributes:
        folder: one that holds any of goemotions/, esconv/ and empathetic_dialogues/. "" for none.
        goemotions, esconv, empathetic_dialogues: a file, folder or hub id; goes before what `folder` holds.
        own: `shipped` for the examples that come with Rapport, a JSONL file in their format, "" for none.
        alpha: temperature of the mixture, see `sft.mixing`.
        max_examples: of each source, evenly spread over its file; 0 for all.
        max_dev: sequences of the dev loss, 0 for all; the same share of every source.
        length_window: batches among which sequences of similar length are put together; 1 turns that off.
        packing: several sequences in a row of at most `max_tokens`, as `sft.batching` says; a batch is then
            `optimizer.batch` such rows at most, and a step has as many sequences as without.
    """

    folder: str = ""
    goemotions: str = ""
    esconv: str = ""
    empathetic_dialogues: str = ""
    own: str = "shipped"
    alpha: float = 0.5
    max_examples: int = 0
    max_dev: int = 256
    max_tokens: int = 1024
    system: str = ""
    enable_thinking: bool = False
    length_window: int = 32
    packing: bool = False


@dataclass(frozen=True)
class SafetyConfig:
    """KL to the teacher. `tau`: temperature of both distributions."""

    scope: SafetyScope = SafetyScope.sensitive
    tau: float = 1.0


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW. A step reads `accumulation` batches of `batch` sequences.

    `warmup` is a share of all steps. `head_lr`: of the heads, which start from random weights.
    """

    lr: float = 2e-4
    head_lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: float = 0.1
    decay: Decay = Decay.cosine
    max_grad_norm: float = 1.0
    batch: int = 4
    accumulation: int = 8


@dataclass(frozen=True)
class DevConfig:
    """The dev loss: every `every` steps (0: never between) and at the end.

    After `patience` evaluations in a row without a gain of `min_gain` the run stops; 0 never stops it.
    """

    every: int = 0
    patience: int = 0
    min_gain: float = 0.0


@dataclass(frozen=True)
class SftConfig:
    """A whole run. `steps` of 0 means `epochs` times as many sequences as there are."""

    name: str = "sft"
    output_dir: str = "runs"
    seed: int = 0
    steps: int = 0
    epochs: float = 2.0
    save_every: int = 50
    keep_checkpoints: int = 2
    resume: bool = True
    tensorboard: bool = True
    class_balance: bool = False
    vocabulary_chunk: int = 8192
    losses: LossWeights = field(default_factory=LossWeights)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    dev: DevConfig = field(default_factory=DevConfig)
