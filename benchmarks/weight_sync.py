"""How long a new policy takes to reach a rollout worker, as a multiple of copying the same bytes once in memory.

    python benchmarks/weight_sync.py                       # smollm2-135m, all weights
    python benchmarks/weight_sync.py --lora-rank 32        # only an adapter
    python benchmarks/weight_sync.py --model tiny-qwen3

pack: into byte buckets and Ray's object store, in this process, as learner rank 0 does. load: from there into vLLM's
own layout, in the worker. copy: every tensor into another one that exists already. Left out: gathering sharded weights
from several learner ranks, and networks.
"""

from __future__ import annotations

import argparse
import statistics
import time

import ray
import torch
from transformers import AutoModelForCausalLM

from rl.config import Dtype, LoraConfig, ModelConfig, RolloutConfig, RunConfig
from rl.models import resolve_model
from rl.rollout import RolloutPool
from rl.weight_sync import WeightUpdate, pack


def policy_tensors(config: RunConfig) -> dict[str, torch.Tensor]:
    """What the learner would send: all weights in the compute dtype, or a random adapter."""
    dtype = torch.bfloat16 if config.model.dtype is Dtype.bfloat16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(resolve_model(config.model.path), dtype=dtype)
    lora = config.model.lora
    if not lora.rank:
        return {name: weight.detach() for name, weight in model.named_parameters()}
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model, get_peft_model_state_dict

    settings = PeftLoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.target_modules))
    return dict(get_peft_model_state_dict(get_peft_model(model, settings)))


def seconds_to_copy(tensors: dict[str, torch.Tensor]) -> float:
    targets = [torch.zeros_like(tensor) for tensor in tensors.values()]
    started = time.monotonic()
    for target, tensor in zip(targets, tensors.values(), strict=True):
        target.copy_(tensor)
    return time.monotonic() - started


def one_sync(pool: RolloutPool, tensors: dict[str, torch.Tensor], version: int, config: RunConfig) -> dict[str, float]:
    started = time.monotonic()
    buckets = tuple(ray.put(bucket) for bucket in pack(tensors.items()))
    packed = time.monotonic()
    lora = config.model.lora if config.model.lora.rank else None
    timings = pool.update_weights(WeightUpdate(version, buckets, lora))
    return {
        "pack": packed - started,
        "load": timings["load_s"],
        "sync": time.monotonic() - started,
        "copy": seconds_to_copy(tensors),
        "bytes": timings["bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    config = RunConfig(
        model=ModelConfig(path=args.model, dtype=Dtype[args.dtype], lora=LoraConfig(rank=args.lora_rank)),
        rollout=RolloutConfig(max_prompt_tokens=128, max_response_tokens=64, kv_cache_gib=0.1),
    )
    tensors = policy_tensors(config)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=2**31)
    pool = RolloutPool(config, resolve_model(args.model))
    try:
        pool.start()
        rounds = [one_sync(pool, tensors, version, config) for version in range(args.rounds + 1)][1:]
    finally:
        pool.close()
        ray.shutdown()
    median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    print(f"{args.model} {args.dtype}, LoRA rank {args.lora_rank}: {median['bytes'] / 1e6:.1f} MB to one worker")
    print("  ".join(f"{name} {median[name] * 1e3:.1f} ms" for name in ("pack", "load", "sync", "copy")))
    print(f"sync / copy: {median['sync'] / median['copy']:.1f} (median of {args.rounds})")


if __name__ == "__main__":
    main()
