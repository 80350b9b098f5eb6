"""The configuration of a GRPO run: frozen dataclasses; `rl.config_loading` fills and checks them before Ray starts.

Precedence, lowest first: the defaults below, the preset (`configs/<name>.yaml` or a path), overrides. Unknown keys
are errors. Enum members are lower-case because OmegaConf reads an enum by its member's name, and YAML should look
natural.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dialogue.prompts import PromptMode


class ConfigError(ValueError):
    """A configuration that cannot run. The message names the key, the value and what would be right."""


class Dtype(StrEnum):
    auto = "auto"  # bfloat16 on GPUs and on processors with AMX, else float32, which is faster there
    float32 = "float32"
    bfloat16 = "bfloat16"


class EngineName(StrEnum):
    fsdp2 = "fsdp2"
    zero1 = "zero1"
    zero2 = "zero2"
    zero3 = "zero3"


class RewardMode(StrEnum):
    quality_only = "quality_only"
    diversity_only = "diversity_only"
    quality_plus_diversity = "quality_plus_diversity"
    quality_times_diversity = "quality_times_diversity"


class AdapterUse(StrEnum):
    """How a rollout worker decodes under LoRA."""

    auto = "auto"  # merged where it computes in float32 on a processor, else separate
    merged = "merged"  # into the weights after every update, and rounded to their dtype: nothing more to multiply
    separate = "separate"  # by vLLM's LoRA kernels


class OverlongPrompt(StrEnum):
    """What happens to a prompt of more than `rollout.max_prompt_tokens`: nothing is ever cut."""

    refuse = "refuse"  # the run does not start; the error names the longest
    skip = "skip"  # left out and counted in the log


class KlEstimator(StrEnum):
    """KL of the policy against the frozen reference, per token, by verl's `kl_penalty` names."""

    k1 = "kl"
    k2 = "mse"
    low_var_kl = "low_var_kl"


@dataclass(frozen=True)
class LoraConfig:
    """A peft LoRA adapter; rank 0 means full fine-tuning."""

    rank: int = 0
    alpha: int = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )


@dataclass(frozen=True)
class ModelConfig:
    """The policy. `path`: a Hugging Face folder, a hub id, or a name of `rl.models` (smollm2-135m, tiny-qwen3)."""

    path: str = "smollm2-135m"
    dtype: Dtype = Dtype.auto
    lora: LoraConfig = field(default_factory=LoraConfig)
    gradient_checkpointing: bool = False
    enable_thinking: bool = False


@dataclass(frozen=True)
class DataConfig:
    """Conversations. `path`: `starter` (shipped), a MINT JSON file or a JSONL of ours."""

    path: str = "starter"
    system_prompt: PromptMode = PromptMode.simple
    overlong: OverlongPrompt = OverlongPrompt.refuse
    first_turns: bool = True  # False: RL asks only for turns that have an earlier supporter turn to differ from
    crisis_turns: bool = False  # True: RL also learns from replies to a seeker in crisis; no reward here knows safety
    holdout_fraction: float = 0.2
    split_seed: int = 0


@dataclass(frozen=True)
class WarmStartConfig:
    """Language-model fine-tuning before RL; 0 epochs means none. `data`: as `data.path`; empty means the conversations
    that RL trains on. Gold replies longer than the rollouts may be teach a policy to be cut off: take others then."""

    epochs: int = 0
    data: str = ""
    max_updates: int = 0  # of the optimizer, where the epochs have more; 0 means no limit
    lr: float = 1e-4
    batch_conversations: int = 8


@dataclass(frozen=True)
class RolloutConfig:
    """vLLM generation. Lengths in tokens; a prompt over `max_prompt_tokens` is refused, never cut."""

    workers: int = 1
    n: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_prompt_tokens: int = 1024
    max_response_tokens: int = 256
    tensor_parallel_size: int = 1
    adapter: AdapterUse = AdapterUse.auto
    kv_cache_gib: float = 0.5  # on CPU; on GPU `gpu_memory_utilization` decides
    gpu_memory_utilization: float = 0.4
    gpu_share: float = 1.0  # of its GPU, as Ray counts: below 1 a worker leaves room for a learner rank on the same one
    timeout_s: float = 600.0
    retries: int = 2  # further attempts for a prompt whose worker died or hung


@dataclass(frozen=True)
class CorrectionConfig:
    """verl's rollout correction: importance weights between the sampling policy (vLLM) and the learner's own."""

    rollout_is: str = "token"  # token, sequence or none
    rollout_is_threshold: float = 2.0


@dataclass(frozen=True)
class LossConfig:
    """Names are those registered in verl's `core_algos`."""

    advantage: str = "grpo"
    policy_loss: str = "vanilla"
    loss_agg_mode: str = "token-mean"
    norm_adv_by_std: bool = True  # False is Dr. GRPO (arXiv 2503.20783)
    clip_ratio_low: float = 0.2
    clip_ratio_high: float = 0.2
    clip_ratio_c: float = 3.0
    kl_coef: float = 0.01
    kl_estimator: KlEstimator = KlEstimator.low_var_kl
    entropy_coef: float = 0.0
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)


@dataclass(frozen=True)
class LearnerConfig:
    """The optimizer side. `micro_batch_tokens` bounds the tokens of one forward pass, shared prompts counted once."""

    engine: EngineName = EngineName.fsdp2
    ranks: int = 1
    gpu_share: float = 1.0  # as in rollout
    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    micro_batch_tokens: int = 4096
    logit_chunk_tokens: int = 1024
    minibatches: int = 1
    epochs_per_step: int = 1
    timeout_s: float = 1800.0
    max_logprob_gap: float = 0.5  # mean |log-prob of vLLM - of the learner| above which the run stops, in nats
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass(frozen=True)
class RewardConfig:
    """The MINT reward (arXiv 2604.11742); symbols as in docs/reward.md."""

    mode: RewardMode = RewardMode.quality_plus_diversity
    weight: float = 1.0  # w
    gamma_kl: float = 1.0
    gamma_entropy: float = 0.0
    gamma_bigram: float = 0.0
    gamma_trigram: float = 0.0
    alpha: float = 0.1  # smoothing of tactic counts
    kl_cap: float = 5.0
    target_tokens: int = 200
    leak_penalty: float = 2.0  # subtracted when tactic labels or headings show
    truncation_penalty: float = 0.0  # subtracted when the reply was cut off at max_response_tokens
    stock_penalty: float = 0.0  # times the share of the reply that is said to other seekers too, see rl/stock.py
    habit_penalty: float = 0.0  # times the mean overuse of the reply's tactics, see rl/habit.py
    habit_ceiling: float = 0.25  # share of the sentences told to others up to which a tactic is not overused
    empty_reward: float = -1.0  # of a reply without text, whatever the others got
    min_group: int = 2  # fewer scored rollouts than this: the group is dropped and its prompt asked again


@dataclass(frozen=True)
class ServersConfig:
    """Where scores come from. `url` empty: a Ray Serve application is started in the run's own cluster. `token` is
    saved with the configuration: leave it empty and set RAPPORT_REWARD_TOKEN to keep it out of the run's folder."""

    url: str = ""
    token: str = ""
    tagger: str = ""  # folder of a tagger of either kind for those started here; empty: the shipped encoder
    replicas: int = 1
    timeout_s: float = 60.0
    retries: int = 4
    max_failed_fraction: float = 0.2  # of a step's rollouts; above it the run stops with an error


@dataclass(frozen=True)
class EvalConfig:
    """Held-out evaluation: before training, every `every` steps (0: never between) and after."""

    every: int = 0
    max_prompts: int = 64
    samples_per_prompt: int = 1
    temperature: float = 1.0


@dataclass(frozen=True)
class RunConfig:
    """A whole run. `steps` of 0 means `epochs` passes over the training prompts."""

    name: str = "grpo"
    output_dir: str = "runs"
    seed: int = 0
    steps: int = 0
    epochs: int = 1
    prompts_per_step: int = 24
    save_every: int = 10
    keep_checkpoints: int = 2
    resume: bool = True
    trackers: tuple[str, ...] = ("tensorboard",)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    servers: ServersConfig = field(default_factory=ServersConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
