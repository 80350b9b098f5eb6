"""Sentences tagged per second in three ways, on the same replies, in one run.

    python benchmarks/tagging_speed.py                                    # smollm2-135m, random adapters of rank 64
    python benchmarks/tagging_speed.py --tagger runs/lora-tagger          # a trained tagger, with its own prompts
    python benchmarks/tagging_speed.py --replies 40 --full

    completion  the reference's way: one chat completion per sentence and tactic, the verdict parsed out of the text
    log-probs   one forward pass per sentence and tactic, the verdict read from two log-probabilities (LoraTagger)
    encoder     one pass of the shipped encoder over a whole reply for all its sentences and tactics (EncoderTagger)

The first two share one vLLM engine with its prefix cache, whose guidelines are computed before the clock starts, as in
a server that has run for a while; the cache is emptied of everything else between them. Random adapters do not stop
where trained ones do, so a completion is given exactly the tokens of a right answer (`<score>0</score>` and the end),
which is the least it can cost. --full lets it write the 64 tokens that the reference allows. All requests are handed
over at once: the reference's HTTP is left out, in its favour.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dialogue.loaders import load_conversations
from dialogue.sentences import split_sentences
from dialogue.tactics import DEFINITIONS, TACTICS, Tactic
from reward_servers.lora_tagger.folder import EngineDtype, EngineSettings, LoraTaggerConfig, save_config
from reward_servers.lora_tagger.prompts import TacticPrompt
from reward_servers.lora_tagger.tagger import LoraTagger
from reward_servers.tactics.encoder_tagger import EncoderTagger
from rl.models import resolve_model

ANSWER = re.compile(r"<score>\s*([01])\s*</score>")
FULL_TOKENS = 64  # what the reference lets a completion write


def prompts() -> dict[Tactic, TacticPrompt]:
    """Prompts of the paper's layout in words of our own; the guideline is shorter, but it is cached in any case."""
    return {
        tactic: TacticPrompt(
            system=f"You decide whether a sentence of a reply shows the tactic {tactic.value}.",
            before=f"### Instruction:\n\n{tactic.value}: the sentence {DEFINITIONS[tactic]}. Say whether it holds, "
            "1 or 0, as <score>[]</score>\n\n### Input:\n- Context (Full Empathic Response):\n",
            between="\n\n- Sentence to Evaluate:\n",
            after="\n\n### Response:",
        )
        for tactic in TACTICS
    }


def random_tagger(folder: Path, model: str, rank: int, settings: EngineSettings) -> None:
    """Ten adapters with random weights: as fast as trained ones."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    path = resolve_model(model)
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=rank, lora_alpha=rank // 2, target_modules=layers, init_lora_weights=False)
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(path), lora, adapter_name=TACTICS[0].value)
    for tactic in TACTICS[1:]:
        wrapped.add_adapter(tactic.value, lora)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.mul_(0.05)  # answers that differ, and no explosion
    wrapped.save_pretrained(folder)
    save_config(folder, LoraTaggerConfig(str(path), prompts(), engine=settings))


def warm(tagger: LoraTagger) -> None:
    """An empty cache but for the guidelines."""
    tagger.in_thread(tagger.engine.llm.reset_prefix_cache)
    tagger.tag([["Hello."]], ["Hello."])


def completions(tagger: LoraTagger, replies: list[str], cut: list[list[str]], tokens: int) -> int:
    """One completion per sentence and tactic; how many could be parsed."""
    from vllm import SamplingParams, TokensPrompt

    asked = [
        (tactic, tagger.encoder.question(tactic, reply, sentence))
        for reply, sentences in zip(replies, cut, strict=True)
        for sentence in sentences
        for tactic in TACTICS
    ]
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=tokens != FULL_TOKENS)
    outputs = tagger.in_thread(
        lambda: tagger.engine.llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for _, ids in asked],
            params,
            lora_request=[tagger.engine.loras[tactic] for tactic, _ in asked],
            use_tqdm=False,
        )
    )
    return sum(ANSWER.search(output.outputs[0].text) is not None for output in outputs)


def seconds(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def measure(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Sentences per second of each way."""
    conversations = load_conversations("starter")
    replies = [c.turns[i].text for c in conversations for i in c.supporter_turns()][: args.replies]
    cut = [split_sentences(reply) for reply in replies]
    count = sum(map(len, cut))
    encoder = EncoderTagger.load()
    encoder.tag(cut)
    rates = {"encoder": 5 * count / seconds(lambda: [encoder.tag(cut) for _ in range(5)])}
    tagger = LoraTagger.load(folder)
    answer = len(tagger.encoder.tokenize("<score>0</score>")) + 1
    ways: dict[str, Callable[[], object]] = {
        "log-probs": lambda: tagger.tag(cut, replies),
        f"completion of {answer}": lambda: completions(tagger, replies, cut, answer),
    }
    if args.full:
        ways[f"completion of up to {FULL_TOKENS}"] = lambda: completions(tagger, replies, cut, FULL_TOKENS)
    for name, way in ways.items():
        warm(tagger)
        rates[name] = count / seconds(way)
        print(f"{name}: {rates[name]:.2f} sentences/s ({count} sentences of {len(replies)} replies)", flush=True)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tagger", type=Path, help="a LoRA tagger's folder, instead of random adapters")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--dtype", default="auto", choices=list(EngineDtype))
    parser.add_argument("--replies", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="also completions of 64 tokens")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.tagger or Path(scratch)
        if args.tagger is None:
            settings = EngineSettings(EngineDtype(args.dtype), max_tokens=2048, max_sequences=32)
            random_tagger(folder, args.model, args.rank, settings)
        rates = measure(args, folder)
    slowest = [name for name in rates if name.startswith("completion")]
    for name in slowest:
        print(f"log-probs / {name}: {rates['log-probs'] / rates[name]:.1f}")
        print(f"encoder / {name}: {rates['encoder'] / rates[name]:.0f}")
    print(json.dumps({name: round(rate, 3) for name, rate in rates.items()}))


if __name__ == "__main__":
    main()
