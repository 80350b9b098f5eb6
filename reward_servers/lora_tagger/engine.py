"""Ten adapters on one model in vLLM, asked for nothing but the log-probabilities of two tokens.

A request is one forward pass over its prompt and yields log p("1") - log p("0"). No text is generated, so none can fail
to parse. Requests are computed adapter by adapter: a prefix is cached within an adapter and never across, and on a
processor a batch then costs one matrix product per adapter and layer.

On a processor vLLM's own LoRA kernels are replaced (see `cpu_kernels`), because they are silently wrong where a batch
mixes adapters with none; `self_check` compares the whole with PEFT at every start all the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dialogue.in_process_vllm import prepare_process
from dialogue.tactics import Tactic
from reward_servers.lora_tagger.folder import EngineDtype, EngineSettings, LoraTaggerFolderError, check_adapter

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes as its largest rank
_KV_BLOCK = 16  # tokens: prefixes are shared in whole blocks


class EngineError(RuntimeError):
    """vLLM did not give what it was asked for. The message says what is missing."""


class Request(NamedTuple):
    """A prompt for one tactic's adapter."""

    tactic: Tactic
    token_ids: list[int]


def choose_dtype(choice: EngineDtype) -> str:
    """The name of the torch dtype to compute in on this machine."""
    if choice is not EngineDtype.AUTO:
        return choice.value
    import torch

    hardware = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.cpu._is_amx_tile_supported()
    return "bfloat16" if hardware else "float32"


class AnswerEngine:
    """vLLM with all adapters loaded. To be used from the thread that made it.

    Attributes:
        llm: the engine.
        loras: each tactic's adapter as vLLM wants it named in a request.

    Args:
        base: folder or hub id of the base model.
        adapters: each tactic's adapter in peft's layout.
        answer_ids: the tokens of "0" and "1".
        settings: how to run it.
        max_tokens: the longest prompt.

    Raises:
        LoraTaggerFolderError: vLLM cannot load the base or an adapter.
    """

    def __init__(
        self,
        base: str,
        adapters: Mapping[Tactic, Path],
        answer_ids: tuple[int, int],
        settings: EngineSettings,
        max_tokens: int,
    ) -> None:
        self._no, self._yes = answer_ids
        self.llm = _load(base, adapters, settings, max_tokens)
        from vllm.lora.request import LoRARequest

        self.loras = {
            tactic: LoRARequest(tactic.value, number, str(path))
            for number, (tactic, path) in enumerate(adapters.items(), start=1)
        }
        for tactic, lora in self.loras.items():
            try:
                self.llm.llm_engine.add_lora(lora)
            except (ValueError, RuntimeError, KeyError) as error:
                raise LoraTaggerFolderError(f"{adapters[tactic]}: vLLM cannot load this adapter ({error})") from error

    def log_odds(self, requests: Sequence[Request], grouped: bool = True) -> NDArray[np.float64]:
        """(N,) log p("1") - log p("0") of each request, in their order.

        Args:
            grouped: compute adapter by adapter; else in the given order, which mixes adapters within a batch.

        Raises:
            EngineError: a request came back without the two log-probabilities.
        """
        from vllm import SamplingParams, TokensPrompt

        tactics = list(self.loras)
        order = sorted(range(len(requests)), key=lambda i: tactics.index(requests[i].tactic) if grouped else i)
        params = SamplingParams(
            temperature=0.0, max_tokens=1, logprob_token_ids=[self._no, self._yes], detokenize=False
        )
        outputs = self.llm.generate(
            [TokensPrompt(prompt_token_ids=requests[i].token_ids) for i in order],
            params,
            lora_request=[self.loras[requests[i].tactic] for i in order],
            use_tqdm=False,
        )
        found = np.zeros(len(requests))
        for i, output in zip(order, outputs, strict=True):
            found[i] = self._difference(requests[i].tactic, output)
        return found

    def _difference(self, tactic: Tactic, output: Any) -> float:
        [completion] = output.outputs
        seen = completion.logprobs[0] if completion.logprobs else {}
        if self._no not in seen or self._yes not in seen:
            raise EngineError(f"vLLM gave no log-probability of 0 or 1 for {tactic}: it finished {completion}")
        difference = float(seen[self._yes].logprob) - float(seen[self._no].logprob)
        if not np.isfinite(difference):
            raise EngineError(f"vLLM's log-probabilities of 0 and 1 for {tactic} are not finite")
        return difference


def _load(base: str, adapters: Mapping[Tactic, Path], settings: EngineSettings, max_tokens: int) -> Any:
    import torch

    gpu = torch.cuda.is_available()
    prepare_process(gpu=gpu)
    if not gpu:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the caller decides on threads and cores
    from vllm import LLM

    if not gpu:
        from reward_servers.lora_tagger import cpu_kernels

        cpu_kernels.install()
    try:
        return LLM(**_options(base, adapters, settings, max_tokens, gpu))
    except (OSError, ValueError) as error:
        raise LoraTaggerFolderError(f"{base}: not a model that vLLM can load with these adapters ({error})") from error


def _options(
    base: str, adapters: Mapping[Tactic, Path], settings: EngineSettings, max_tokens: int, gpu: bool
) -> dict[str, Any]:
    described = [check_adapter(path) for path in adapters.values()]
    rank = max(adapter["r"] for adapter in described)
    named = [names for adapter in described if isinstance(names := adapter.get("target_modules"), list)]
    options: dict[str, Any] = {
        "model": base,
        "dtype": choose_dtype(settings.dtype),
        "max_model_len": max_tokens + 1,  # the one token that vLLM insists on drawing
        "max_num_seqs": settings.max_sequences,
        "max_num_batched_tokens": max(8192, max_tokens + 1),
        "enable_prefix_caching": True,
        "enforce_eager": True,  # one pass over a prompt: there is no decoding for a CUDA graph to speed up
        "enable_lora": True,
        "max_loras": len(adapters),
        "max_cpu_loras": len(adapters),
        "max_lora_rank": next((allowed for allowed in _RANKS if allowed >= rank), rank),
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "seed": 0,
    }
    if len(named) == len(described):  # else vLLM multiplies every layer by adapters of zeros
        options["lora_target_modules"] = sorted({name for names in named for name in names})
    if gpu:
        return options | {"gpu_memory_utilization": settings.gpu_memory_utilization}
    return options | {
        "enable_chunked_prefill": False,
        "block_size": _KV_BLOCK,
        "kv_cache_memory_bytes": int(settings.kv_cache_gib * 2**30),
    }
