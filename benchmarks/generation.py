"""What the rollout pool costs over a bare vLLM engine: tokens generated per second by each, in one run.

    python benchmarks/generation.py                                  # smollm2-135m, 8 prompts x 8 replies x 64 tokens
    python benchmarks/generation.py --model tiny-qwen3 --prompts 32 --tokens 128
    python benchmarks/generation.py --lora-rank 32                   # the pool samples under an adapter, the engine not

Both sides have the same engine options, prompts, seeds and lengths, and take turns, so that a busy machine slows both;
the ratio is the median over the rounds. End-of-turn tokens count like others: replies may be shorter than `--tokens`,
but must be the same on both sides, which is checked in float32 without an adapter. Both sides draw tokens with the
worker's sampler for CPUs (rl/cpu_sampler.py); with vLLM's own the bare engine would be the slower one. Left out:
several workers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import psutil
import ray

from rl.config import Dtype, LoraConfig, ModelConfig, RolloutConfig, RunConfig
from rl.models import resolve_model
from rl.rollout import RolloutPool, Sampling
from rl.types import Prompt, RolloutGroup

WORRIES = ("my job", "my sister", "the move", "the exam", "my knee", "the wedding", "my landlord", "the night shifts")


def made_up_prompts(count: int, model_path: Path) -> list[Prompt]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    prompts = []
    for i in range(count):
        text = f"Message {i}. I keep thinking about {WORRIES[i % len(WORRIES)]} and I cannot sleep. " * (2 + i % 3)
        chat = [{"role": "system", "content": "You are a warm listener."}, {"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        prompts.append(Prompt(f"made-up-{i}/1", f"made-up-{i}", (), tuple(ids)))
    return prompts


def random_adapter(model_path: Path, lora: LoraConfig) -> Any:
    """An update of version 1 with an adapter that changes little."""
    import torch
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    from rl.weight_sync import WeightUpdate, pack

    settings = PeftLoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.target_modules))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_path), settings)
    tensors = {name: torch.randn_like(t) * 0.001 for name, t in get_peft_model_state_dict(model).items()}
    return WeightUpdate(1, tuple(ray.put(bucket) for bucket in pack(tensors.items())), lora)


def bare_engine(config: RunConfig, model_path: Path) -> Any:
    """vLLM as a script would use it, with the options of the pool's engines."""
    from dialogue.in_process_vllm import prepare_process

    prepare_process(gpu=False)
    from vllm import LLM

    from rl import cpu_sampler
    from rl.rollout_worker import engine_options

    cpu_sampler.install()
    return LLM(**engine_options(config, model_path, gpu=False))


def time_pool(
    pool: RolloutPool, prompts: list[Prompt], sampling: Sampling
) -> tuple[float, list[list[tuple[int, ...]]]]:
    started = time.monotonic()
    groups: list[RolloutGroup] = pool.generate(prompts, sampling, range(len(prompts)))
    seconds = time.monotonic() - started
    return seconds, [[rollout.token_ids for rollout in group.rollouts] for group in groups]


def time_bare(llm: Any, prompts: list[Prompt], sampling: Sampling) -> tuple[float, list[list[tuple[int, ...]]]]:
    from vllm import TokensPrompt

    from rl.rollout_worker import sampling_params

    started = time.monotonic()
    outputs = llm.generate(
        [TokensPrompt(prompt_token_ids=list(prompt.token_ids)) for prompt in prompts],
        [sampling_params(sampling, seed) for seed in range(len(prompts))],
        use_tqdm=False,
    )
    seconds = time.monotonic() - started
    return seconds, [[tuple(reply.token_ids) for reply in output.outputs] for output in outputs]


def main() -> None:
    args = parse()
    model_path = resolve_model(args.model)
    config = RunConfig(
        model=ModelConfig(path=args.model, dtype=Dtype[args.dtype], lora=LoraConfig(rank=args.lora_rank)),
        rollout=RolloutConfig(max_prompt_tokens=512, max_response_tokens=args.tokens, kv_cache_gib=args.kv_cache_gib),
    )
    sampling = Sampling(n=args.replies, max_tokens=args.tokens)
    prompts = made_up_prompts(args.prompts, model_path)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=2**29)
    pool = RolloutPool(config, model_path)
    try:
        started = time.monotonic()
        pool.start()
        pool.generate(prompts[:1], Sampling(n=1, max_tokens=1), [0])
        print(f"{args.model} {args.dtype}: first token {time.monotonic() - started:.1f} s after start()")
        if args.lora_rank:
            pool.update_weights(random_adapter(model_path, config.model.lora))
        compare(pool, bare_engine(config, model_path), prompts, sampling, args)
        memory = psutil.Process(pool.status()[0].pid).memory_info().rss / 2**20
        print(f"memory of the worker process {memory:.0f} MB with a KV cache of {args.kv_cache_gib:g} GiB")
    finally:
        pool.close()
        ray.shutdown()


def compare(pool: RolloutPool, llm: Any, prompts: list[Prompt], sampling: Sampling, args: argparse.Namespace) -> None:
    ratios = []
    for round_number in range(args.rounds + 1):
        pool_s, ours = time_pool(pool, prompts, sampling)
        bare_s, theirs = time_bare(llm, prompts, sampling)
        if args.dtype == "float32" and not args.lora_rank and ours != theirs:
            raise SystemExit("the pool and the bare engine gave different tokens for the same seeds")
        speeds = [
            sum(len(ids) for group in side for ids in group) / s for side, s in ((ours, pool_s), (theirs, bare_s))
        ]
        if round_number == 0:
            continue  # warms caches
        ratios.append(speeds[0] / speeds[1])
        print(f"round {round_number}: pool {speeds[0]:.0f} tokens/s, bare engine {speeds[1]:.0f} tokens/s")
    print(f"pool / bare engine: {statistics.median(ratios):.3f} (median of {args.rounds}; aim 0.95)")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "auto"])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--replies", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--kv-cache-gib", type=float, default=0.5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
