"""A model in a local Hugging Face folder, run by vLLM in this process: all questions that are open at once, together.

    reply() -> waiting -> submitted to the engine -> a step of all that run ... -> finished: its reply() returns
                             ^ one task, which lives while there is anything to answer ^

The engine lives in one thread of its own, so that the event loop stays free between its steps. Replies come back as
they finish, so what a stopped run had finished is in the cache.

At the end its memory is given back and the environment is as before: vLLM sets LD_PRELOAD and the like for its own
children, which processes that are started later, Ray's for example, must not inherit.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from dialogue.in_process_vllm import cache_bytes_per_token, prepare_process
from evaluation.files import EvaluationDataError
from evaluation.local_model import check_folder, identity_of, prompt_ids, template_options, too_long
from evaluation.replies import Question, Reply, ReplyFailure, ReplyResult, Sampling
from reward_servers.protocol import FailureKind

T = TypeVar("T")

CONTEXT = 8192  # tokens of prompt and reply, or what the model takes if that is less
_CPU_SEQUENCES = 32  # decoded at once on a processor; more wait inside vLLM
_CPU_TOKENS = 2048  # of one of them, with what was said before it; a longer one takes the room of several
_CPU_SHARE = 0.25  # of the free memory, at most, for the keys and values of all of them
_GPU_SEQUENCES = 256


@asynccontextmanager
async def open_vllm(folder: Path, thinking: bool | None = None) -> AsyncIterator[VllmModel]:
    """The chat model in `folder`. It is loaded for the first question: one that the cache answers needs no model.

    Raises:
        EvaluationDataError: the folder holds no such model, or its tokenizer has no chat template; in part only told
            by the first `reply`.
    """
    check_folder(folder)
    before = dict(os.environ)
    thread = ThreadPoolExecutor(1, thread_name_prefix="vllm")
    model = VllmModel(folder, thread, thinking)
    try:
        yield model
    finally:
        await model.close()
        thread.shutdown(wait=True, cancel_futures=True)
        _set_back(os.environ, before)


def _set_back(environment: MutableMapping[str, str], before: Mapping[str, str]) -> None:
    for name in [name for name in environment if name not in before]:
        del environment[name]
    for name, value in before.items():
        if environment.get(name) != value:
            environment[name] = value


@dataclass(frozen=True, slots=True)
class _Ask:
    """A question whose `reply` waits for `answer`."""

    question: Question
    sampling: Sampling
    answer: asyncio.Future[ReplyResult]


class VllmModel:
    """See `open_vllm`, which makes one. Belongs to one event loop."""

    def __init__(self, folder: Path, thread: ThreadPoolExecutor, thinking: bool | None) -> None:
        self.identity = identity_of(folder, thinking) + " vllm"
        self._folder = folder
        self._engine: Any = None
        self._options = template_options(thinking)
        self._thread = thread
        self._waiting: list[_Ask] = []
        self._running: dict[str, _Ask] = {}
        self._worker: asyncio.Task[None] | None = None
        self._numbers = count()

    async def reply(self, question: Question, sampling: Sampling) -> ReplyResult:
        ask = _Ask(question, sampling, asyncio.get_running_loop().create_future())
        self._waiting.append(ask)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await ask.answer

    async def close(self) -> None:
        """End the engine, whatever it does, and give its memory back: what runs after it needs the room."""
        if self._worker is not None:
            self._worker.cancel()  # a step that runs ends first, as it is in the same thread
        if self._engine is not None:
            await self._in_thread(self._stop)

    async def _work(self) -> None:
        """Step the engine until nothing is open. What it cannot do is the failure of all that it was doing."""
        try:
            if self._engine is None:
                await self._in_thread(self._start)
            while self._waiting or self._running:
                taken, self._waiting = self._waiting, []
                for name, output in await self._in_thread(lambda taken=taken: self._step(taken)):  # type: ignore[misc]
                    _settle(self._running.pop(name), output)
        except EvaluationDataError as error:  # no model: a fault of the call, not of a question
            for ask in self._waiting:
                if not ask.answer.done():
                    ask.answer.set_exception(error)
            self._waiting = []
        except Exception as error:
            message = f"vLLM stopped with {type(error).__name__}: {error}"
            for ask in [*self._running.values(), *self._waiting]:
                _settle(ask, ReplyFailure(ask.question.id, FailureKind.INTERNAL, message, attempts=1))
            self._running, self._waiting = {}, []

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _start(self) -> None:
        """Load the model. Runs in the engine's thread."""
        llm = _load(self._folder)
        self._tokenizer = llm.get_tokenizer()
        self._most_tokens = llm.model_config.max_model_len
        self._engine = llm.llm_engine

    def _stop(self) -> None:
        """Runs in the engine's thread. vLLM hides its objects from the collector until it is shut down."""
        from vllm.distributed import cleanup_dist_env_and_memory

        engine, self._engine = self._engine, None
        engine.engine_core.shutdown()
        del engine
        cleanup_dist_env_and_memory()

    def _step(self, taken: list[_Ask]) -> list[tuple[str, ReplyResult]]:
        """Submit what was taken, go one step, and tell what is finished. Runs in the engine's thread."""
        done: list[tuple[str, ReplyResult]] = []
        for ask in taken:
            name = f"r{next(self._numbers)}"
            self._running[name] = ask
            if (refused := self._submit(name, ask)) is not None:
                done.append((name, refused))
        for output in self._engine.step() if self._engine.has_unfinished_requests() else ():
            if output.finished:
                asked = self._running[output.request_id].question
                done.append((output.request_id, Reply(asked.id, output.outputs[0].text)))
        return done

    def _submit(self, name: str, ask: _Ask) -> ReplyFailure | None:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        tokens = prompt_ids(self._tokenizer, ask.question.messages, self._options)
        room = self._most_tokens - len(tokens)
        if room < 1:
            return too_long(ask.question.id, len(tokens), self._most_tokens)
        params = SamplingParams(
            temperature=ask.sampling.temperature,
            max_tokens=min(ask.sampling.max_tokens, room),
            seed=ask.sampling.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._engine.add_request(name, TokensPrompt(prompt_token_ids=tokens), params)
        return None


def _settle(ask: _Ask, result: ReplyResult) -> None:
    if not ask.answer.done():  # its task may have been cancelled
        ask.answer.set_result(result)


def _load(folder: Path) -> Any:
    import torch

    gpu = torch.cuda.is_available()
    prepare_process(gpu=gpu)
    from transformers import AutoConfig
    from vllm import LLM

    try:
        config = AutoConfig.from_pretrained(folder)
        context = min(CONTEXT, getattr(config, "max_position_embeddings", CONTEXT))
        llm = LLM(**_options(folder, context, gpu), **({} if gpu else _cpu_options(config, context)))
    except (OSError, ValueError) as error:
        raise EvaluationDataError(f"{folder}: not a model that vLLM can load ({error})") from error
    if not llm.get_tokenizer().chat_template:
        raise EvaluationDataError(f"{folder}: the tokenizer has no chat template; expected a chat model")
    return llm


def _options(folder: Path, context: int, gpu: bool) -> dict[str, Any]:
    return {
        "model": str(folder),
        "max_model_len": context,
        "max_num_seqs": _GPU_SEQUENCES if gpu else _CPU_SEQUENCES,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }


def _cpu_options(config: Any, context: int) -> dict[str, Any]:
    # A prompt prefilled in pieces makes vLLM rewind the request's generator, which CPU generators cannot do.
    return {
        "dtype": _cpu_dtype(),
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": context,
        "kv_cache_memory_bytes": _cpu_kv_bytes(config, context),
    }


def _cpu_kv_bytes(config: Any, context: int) -> int:
    """Room for `_CPU_SEQUENCES` of usual length, within the free memory, and for one of the longest in any case.

    With less room vLLM decodes fewer at once, and throws away what it has of some to make place for others.
    """
    import psutil

    token = cache_bytes_per_token(config.get_text_config(), 2 if _cpu_dtype() == "bfloat16" else 4)
    wanted = _CPU_SEQUENCES * min(_CPU_TOKENS, context) * token
    return max(min(wanted, int(_CPU_SHARE * psutil.virtual_memory().available)), (context + 64) * token)


def _cpu_dtype() -> str:
    """bfloat16 only where the processor multiplies it in hardware."""
    import torch

    return "bfloat16" if torch.cpu._is_amx_tile_supported() else "float32"
