"""One rollout worker: a Ray actor that owns a vLLM engine and answers prompts as they finish.

The heavy imports happen in `setup`, after the thread settings are in place, so that the actor itself is up at once and
a failure while loading comes back as an ordinary error with its cause.

Sampling: the n replies of a prompt are seeded `seed * n + i`, each with its own generator, so neither the worker nor
the rest of the batch is part of the randomness. The log-prob of a token is the one under the distribution it was drawn
from: after temperature, and after top-p where that is below 1.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dialogue.in_process_vllm import prepare_process
from dialogue.thinking import strip_thinking
from rl.config import AdapterUse, LoraConfig, RunConfig
from rl.threads import share_of_cores
from rl.types import Rollout, StopReason

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput

    from rl.weight_sync import WeightBucket, WeightUpdate

MAX_SEQUENCES = 256  # decoded at once; more wait inside vLLM
CPU_KV_BLOCK = 16  # tokens: the n replies of a group share the prompt's full blocks, so small ones share more
WAIT_FOR_OBJECT_S = 300.0
SIGN_OF_LIFE_S = 1.0


class EngineError(RuntimeError):
    """Whatever went wrong around vLLM, as text: some of its errors cannot be pickled, and would reach no one."""


@contextmanager
def _errors_as_text() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise EngineError(f"{type(error).__name__}: {error}") from None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn: `n` per prompt, at most `max_tokens` tokens each. Temperature 0 is greedy."""

    n: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt on its way to a worker. `index`: its place in the driver's call."""

    index: int
    token_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """All n rollouts of the prompt at `index`."""

    index: int
    rollouts: tuple[Rollout, ...]


class RolloutWorker:
    """The actor. Calls are served one at a time, in order."""

    def where(self) -> tuple[str, str, int]:
        """Ray's id of the node, its address, and the process id."""
        import ray

        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), os.getpid()

    @_errors_as_text()
    def setup(self, config: RunConfig, model_path: Path, neighbours: int, gpu: bool) -> None:
        """Load the model. `neighbours`: rollout workers on this node, which share its cores on CPU."""
        prepare_process(gpu=gpu)
        import torch

        if not gpu:
            torch.set_num_threads(share_of_cores(neighbours))
        self._model_path = model_path
        self._merges = merges_adapter(config, gpu)
        self._llm = _load_engine(config, model_path, gpu)
        self._engine = self._llm.llm_engine
        self._tokenizer = self._llm.get_tokenizer()
        self._version = 0
        self._adapter: Any = None
        self._requests = 0

    @_errors_as_text()
    def update(self, update: WeightUpdate) -> dict[str, float]:
        """Take new weights. Seconds spent waiting for the bytes and loading them, and the number of bytes."""
        import ray

        started = time.monotonic()
        buckets = ray.get(list(update.buckets), timeout=WAIT_FOR_OBJECT_S)
        fetched = time.monotonic()
        if update.lora is None:
            check_complete(buckets, self._model_path)
            self._llm.collective_rpc("load_buckets", args=(buckets,))
        elif self._merges:
            self._llm.collective_rpc("load_merged", args=(buckets, self._model_path, update.lora))
        else:
            self._load_adapter(buckets, update.lora, update.version)
        self._llm.reset_prefix_cache()
        self._version = update.version
        size = sum(bucket.data.nbytes for bucket in buckets)
        return {"fetch_s": fetched - started, "load_s": time.monotonic() - fetched, "bytes": float(size)}

    def generate(self, asks: Sequence[Ask], sampling: Sampling) -> Iterator[Answer | None]:
        """Answer each ask once, in the order in which their replies are complete; None every second in between."""
        with _errors_as_text():
            yield from self._generate(asks, sampling)

    def _generate(self, asks: Sequence[Ask], sampling: Sampling) -> Iterator[Answer | None]:
        waiting: dict[str, int] = {}
        try:
            for ask in asks:
                waiting[self._submit(ask, sampling)] = ask.index
            signed = time.monotonic()
            while waiting:
                if time.monotonic() - signed > SIGN_OF_LIFE_S:
                    signed = time.monotonic()
                    yield None
                for output in self._engine.step():
                    if output.finished:
                        index = waiting.pop(output.request_id)
                        yield Answer(index, tuple(map(self._rollout, output.outputs)))
        finally:
            if waiting:  # an error, or the driver no longer listens
                self._engine.abort_request(list(waiting))

    def _submit(self, ask: Ask, sampling: Sampling) -> str:
        from vllm import TokensPrompt

        self._requests += 1
        request_id = f"r{self._requests}"
        prompt = TokensPrompt(prompt_token_ids=list(ask.token_ids))
        params = sampling_params(sampling, ask.seed)
        self._engine.add_request(request_id, prompt, params, lora_request=self._adapter)
        return request_id

    def _rollout(self, output: CompletionOutput) -> Rollout:
        if output.finish_reason not in ("stop", "length") or output.logprobs is None:
            raise RuntimeError(f"vLLM ended a reply with {output.finish_reason!r} instead of finishing it")
        ids = tuple(output.token_ids)
        return Rollout(
            token_ids=ids,
            logprobs=tuple(seen[token].logprob for token, seen in zip(ids, output.logprobs, strict=True) if seen),
            policy_version=self._version,
            stop_reason=StopReason.EOS if output.finish_reason == "stop" else StopReason.LENGTH,
            text=strip_thinking(self._tokenizer.decode(ids, skip_special_tokens=True)),
        )

    def _load_adapter(self, buckets: Sequence[WeightBucket], lora: LoraConfig, version: int) -> None:
        """Hand the adapter to vLLM as a folder in peft's layout, under a new id, and forget the one before."""
        from vllm.lora.request import LoRARequest

        if self._adapter is not None:
            self._engine.remove_lora(self._adapter.lora_int_id)
        number = self._adapter.lora_int_id + 1 if self._adapter is not None else 1
        with TemporaryDirectory(prefix="rapport-adapter-") as folder:  # vLLM has read it when `add_lora` returns
            write_adapter(Path(folder), buckets, lora)
            self._adapter = LoRARequest(f"policy-{version}", number, folder)
            self._engine.add_lora(self._adapter)


def sampling_params(sampling: Sampling, seed: int) -> SamplingParams:
    """vLLM's parameters for one prompt; vLLM gives reply i of the n the seed of reply 0 plus i."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=seed * sampling.n,
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def write_adapter(folder: Path, buckets: Sequence[WeightBucket], lora: LoraConfig) -> None:
    """A folder in peft's layout: the tensors of `buckets` and the few settings that vLLM reads."""
    import json

    from safetensors.torch import save_file

    from rl.adapter_merge import adapter_pairs
    from rl.weight_sync import unpack

    adapter_pairs(buckets)  # refuses an adapter that is not whole
    settings = {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": list(lora.target_modules),
        "bias": "none",
    }
    tensors = {name: tensor for bucket in buckets for name, tensor in unpack(bucket)}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")


def check_complete(buckets: Sequence[WeightBucket], model_path: Path) -> None:
    """Compare names with the checkpoint that the engine was started from: vLLM would keep a forgotten weight as it was.

    Raises:
        ValueError: a weight is missing (a tied `lm_head` may be) or unknown.
    """
    from safetensors import safe_open

    known: set[str] = set()
    for file in model_path.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            known.update(opened.keys())
    given = {meta.name for bucket in buckets for meta in bucket.metas}
    wrong = sorted((known ^ given) - {"lm_head.weight"})
    if known and wrong:
        raise ValueError(f"an update must hold the weights of {model_path}: missing or unknown: {', '.join(wrong[:3])}")


def _load_engine(config: RunConfig, model_path: Path, gpu: bool) -> Any:
    from vllm import LLM

    from rl import cpu_sampler
    from rl.vllm_extension import SyncExtension, install_single_adapter_kernels

    options = engine_options(config, model_path, gpu)
    if not gpu:
        cpu_sampler.install()
    if not gpu and config.model.lora.rank and not merges_adapter(config, gpu):
        install_single_adapter_kernels()
    options["worker_extension_cls"] = f"{SyncExtension.__module__}.{SyncExtension.__qualname__}"
    return LLM(**options)


def merges_adapter(config: RunConfig, gpu: bool) -> bool:
    """Whether workers fold the adapter into their weights.

    In bfloat16 an update of a few parts in a thousand would be rounded away, so `auto` does it in float32 only; on GPUs
    vLLM's LoRA kernels cost little.
    """
    import torch

    from rl.engines.model import compute_dtype

    choice = config.rollout.adapter
    if not config.model.lora.rank or choice is AdapterUse.separate:
        return False
    if choice is AdapterUse.merged:
        return True
    return not gpu and compute_dtype(config.model.dtype, torch.device("cpu")) == torch.float32


def engine_options(config: RunConfig, model_path: Path, gpu: bool) -> dict[str, Any]:
    """The arguments of `vllm.LLM` for this run, the same for a rollout worker and for a bare engine in a benchmark."""
    import torch

    from rl.engines.model import compute_dtype

    rollout, lora = config.rollout, config.model.lora
    context = rollout.max_prompt_tokens + rollout.max_response_tokens
    dtype = compute_dtype(config.model.dtype, torch.device("cuda" if gpu else "cpu"))
    options: dict[str, Any] = {
        "model": str(model_path),
        "dtype": str(dtype).removeprefix("torch."),
        "max_model_len": context,
        "max_num_batched_tokens": max(context, 8192),
        "max_num_seqs": MAX_SEQUENCES,
        "logprobs_mode": "processed_logprobs",
        "tensor_parallel_size": rollout.tensor_parallel_size,
        "seed": config.seed,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }
    if lora.rank and not merges_adapter(config, gpu):
        options |= {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": _allowed_rank(lora.rank)}
        # else vLLM also multiplies the output layer by an adapter of zeros
        options["lora_target_modules"] = list(lora.target_modules)
    if gpu:
        return options | {"gpu_memory_utilization": rollout.gpu_memory_utilization}
    # A prompt prefilled in pieces makes vLLM rewind the request's generator, which CPU generators cannot do.
    return options | {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "block_size": CPU_KV_BLOCK,
        "kv_cache_memory_bytes": int(rollout.kv_cache_gib * 2**30),
    }


def _allowed_rank(rank: int) -> int:
    """The least maximum rank vLLM takes that is at least `rank`."""
    return next((allowed for allowed in (1, 8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank), rank)
