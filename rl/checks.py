"""What would stop a run is found before Ray starts: data, model, servers, GPUs. Every error names the key to change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dialogue.conversation import Conversation
from dialogue.in_process_vllm import cache_bytes_per_token
from dialogue.loaders import STARTER, DataError, load_conversations
from rl.config import ConfigError, RunConfig, ServersConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def read_conversations(key: str, path: str) -> Sequence[Conversation]:
    """The conversations that the configuration names under `key`.

    Raises:
        ConfigError: there is no such file, or it does not hold conversations; says what the key takes.
    """
    takes = (
        f"{key} takes a JSON array of conversations as MINT releases it, a .jsonl of ours, or `starter`; for example "
        f"{key}=data/mint/conversations_322.json"
    )
    if path != "starter" and not Path(path).is_file():
        reason = "it is empty" if not path else "it is a folder" if Path(path).is_dir() else "there is no such file"
        raise ConfigError(f"{key}={path}: {reason}; {takes}")
    try:
        return load_conversations(STARTER if path == "starter" else Path(path))
    except DataError as error:
        raise ConfigError(f"{key}: {error}") from error


def open_tokenizer(config: RunConfig, model_path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the policy, with a chat template and a token that ends a reply.

    Raises:
        ConfigError: the folder has no tokenizer, or it lacks one of them.
    """
    from transformers import AutoTokenizer  # takes seconds: after the data and the model were found

    key = f"model.path={config.model.path}"
    if not any((model_path / name).is_file() for name in _VOCABULARIES):  # transformers would make an empty one
        raise ConfigError(f"{key}: {model_path} holds no tokenizer; copy the model's tokenizer.json beside its weights")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path)
    except Exception as error:  # transformers raises whatever its readers do: OSError, ValueError, KeyError, TypeError
        raise ConfigError(
            f"{key}: no tokenizer can be read there ({_first_line(error)}); copy tokenizer.json and "
            "tokenizer_config.json of the model anew"
        ) from error
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{key}: its tokenizer has no chat template, which dialogue needs; take an instruction-tuned model, or put "
            "chat_template.jinja into the folder"
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"{key}: its tokenizer has no eos_token, so no reply could end; set it in tokenizer_config.json"
        )
    return tokenizer


def check_model(config: RunConfig, model_path: Path) -> None:
    """Whether the learners can train this model and the rollout workers have room for it. Loads no weights.

    Raises:
        ConfigError, ModelUnsupportedError: no weights, an architecture that cannot be trained here, an adapter for
            layers that it does not have, prompts and replies longer than it reads, or no room for them in the cache.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rl.engines.model import refuse_unsupported

    key = f"model.path={config.model.path}"
    if not any(any(model_path.glob(pattern)) for pattern in ("*.safetensors", "*.bin")):
        raise ConfigError(f"{key}: {model_path} holds no weights (*.safetensors)")
    try:
        described = AutoConfig.from_pretrained(model_path)
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(described)
    except Exception as error:  # as with tokenizers; a model's own code may raise anything
        raise ConfigError(f"{key}: not a causal language model ({_first_line(error)})") from error
    refuse_unsupported(lm, model_path)
    if config.model.lora.rank:
        _check_targets(config, lm)
    _check_lengths(config, described.get_text_config())


def _check_targets(config: RunConfig, lm: Any) -> None:
    import torch

    linear = [name for name, module in lm.named_modules() if isinstance(module, torch.nn.Linear)]
    unknown = [t for t in config.model.lora.target_modules if not any(f".{name}".endswith(f".{t}") for name in linear)]
    if unknown:
        kinds = sorted({name.rpartition(".")[2] for name in linear} - {"lm_head"})
        raise ConfigError(
            f"model.lora.target_modules: {config.model.path} has no {', '.join(unknown)}; it has {', '.join(kinds)}"
        )


def _check_lengths(config: RunConfig, text: Any) -> None:
    """`text`: the Hugging Face configuration of the language model."""
    import torch

    from rl.engines.model import compute_dtype

    rollout = config.rollout
    context = rollout.max_prompt_tokens + rollout.max_response_tokens
    longest = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    if longest and context > longest and rope.get("rope_type", "default") == "default":
        raise ConfigError(
            f"rollout.max_prompt_tokens={rollout.max_prompt_tokens} and rollout.max_response_tokens="
            f"{rollout.max_response_tokens}: {config.model.path} reads {longest} tokens at most; lower one of them"
        )
    if local_gpus() != 0:
        return  # on GPUs vLLM takes what rollout.gpu_memory_utilization leaves; a cluster is not known yet
    number = compute_dtype(config.model.dtype, torch.device("cpu")).itemsize
    needed = context * cache_bytes_per_token(text, number) / 2**30
    if needed > rollout.kv_cache_gib:
        raise ConfigError(
            f"rollout.kv_cache_gib={rollout.kv_cache_gib}: the keys and values of one prompt and reply of {context} "
            f"tokens take {needed:.2g} GiB; raise it, or lower rollout.max_prompt_tokens"
        )


def local_gpus() -> int | None:
    """GPUs of the cluster that a run would start here; None where it joins one that is there (`RAY_ADDRESS`)."""
    import torch

    return None if os.environ.get("RAY_ADDRESS") else torch.cuda.device_count()


def check_gpus(config: RunConfig, gpus: float) -> None:
    """Refuse what would wait for ever.

    Args:
        gpus: those of the cluster; 0 means that all runs on CPU.

    Raises:
        ConfigError: there are GPUs, but fewer than the workers and ranks ask for; or there are none to share a model.
    """
    from rl.rollout_handle import worker_gpus

    parallel = config.rollout.tensor_parallel_size
    if not gpus and parallel > 1:
        raise ConfigError(
            f"rollout.tensor_parallel_size={parallel}: a worker's model is spread over GPUs, and there is none here; "
            "set it to 1"
        )
    rollout = config.rollout.workers * worker_gpus(config.rollout)
    learner = config.learner.ranks * config.learner.gpu_share
    if gpus and rollout + learner > gpus:
        raise ConfigError(
            f"rollout.workers={config.rollout.workers} take {rollout:g} GPUs and learner.ranks={config.learner.ranks} "
            f"{learner:g}, but the cluster has {gpus:g}: lower them, or let a worker and a rank share one with "
            "rollout.gpu_share=0.4 learner.gpu_share=0.6"
        )


def check_servers(servers: ServersConfig) -> None:
    """Whether the servers at `url` answer, or the tagger for those to be started here can be opened.

    Raises:
        ConfigError: with what to change.
    """
    if servers.url:
        _check_url(servers)
    elif servers.tagger:
        _check_tagger(servers.tagger)


def _check_tagger(folder: str) -> None:
    from reward_servers.service_config import tagger_deployment

    try:
        tagger_deployment(folder)
    except ValueError as error:
        raise ConfigError(f"servers.tagger={folder}: {error}; leave it empty for the shipped encoder") from error


def _check_url(servers: ServersConfig) -> None:
    from reward_servers.client import RewardServerError, check_url
    from rl.reward_client import token_of

    try:
        check_url(servers.url, token_of(servers), servers.timeout_s)
    except (RewardServerError, ValueError) as error:
        raise ConfigError(
            f"servers.url={servers.url}: {error}; start the server, or leave servers.url empty"
        ) from error


def check_loss(config: RunConfig) -> None:
    """Last of the checks, because importing verl takes longer than all the others."""
    from rl.advantage import validate_advantage
    from rl.losses import validate_loss

    validate_loss(config.learner.loss)
    validate_advantage(config.learner.loss.advantage)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
