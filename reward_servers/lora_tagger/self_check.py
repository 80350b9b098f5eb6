"""Before a LoRA tagger answers anyone: does vLLM say of a few prompts what PEFT says of them?

PEFT's answers are stored with the tagger when it is trained or adopted, under the version of its weights, so a start
costs thirty more prompts and no second copy of the model. Where they are missing or belong to other weights, PEFT is
run first, and its copy of the model is gone before vLLM loads its own.

The prompts go through vLLM tactic by tactic within each sentence, so that adapters are mixed within a batch: the case
in which the CPU kernels are known to be silently wrong.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dialogue.library_noise import silence_bitsandbytes
from dialogue.sentences import split_sentences
from dialogue.tactics import TACTICS, Tactic
from reward_servers.lora_tagger.encoding import PromptEncoder
from reward_servers.lora_tagger.engine import AnswerEngine, Request
from reward_servers.lora_tagger.folder import write_whole

FILE = "self_check.json"
# How far probabilities may lie apart: float32 differs by the order of its sums, bfloat16 keeps 8 bits.
TOLERANCE: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.06}
_REPLIES = (
    "I am so sorry, losing that job after nine years must hurt. Who have you told so far?",
    "When my brother left I did not sleep for a week either, and a walk at noon helped me more than any pill.",
)


class SelfCheckError(RuntimeError):
    """vLLM and PEFT disagree about the tagger's verdicts: it would answer wrongly, so it does not start."""


def probe_requests(encoder: PromptEncoder) -> list[Request]:
    """Every tactic asked of every sentence of the probe replies, the tactics taking turns."""
    return [
        Request(tactic, encoder.encode(tactic, reply, sentence))
        for reply in _REPLIES
        for sentence in split_sentences(reply)
        for tactic in TACTICS
    ]


def peft_log_odds(
    base: str, adapters: Mapping[Tactic, Path], answer_ids: tuple[int, int], requests: Sequence[Request], dtype: str
) -> NDArray[np.float64]:
    """(N,) log p("1") - log p("0") of each request by transformers and PEFT, one prompt at a time."""
    silence_bitsandbytes()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype)).to(device)
    first, *others = adapters
    model = PeftModel.from_pretrained(model, adapters[first], adapter_name=first.value)
    for tactic in others:
        model.load_adapter(adapters[tactic], adapter_name=tactic.value)
    model.eval()
    no, yes = answer_ids
    found = np.zeros(len(requests))
    with torch.inference_mode():
        for tactic in adapters:
            model.set_adapter(tactic.value)
            for i in (i for i, request in enumerate(requests) if request.tactic is tactic):
                ids = torch.tensor([requests[i].token_ids], device=device)  # (1, T)
                logits = model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()  # (V,)
                found[i] = float(logits[yes] - logits[no])
    del model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def expected_log_odds(
    folder: Path,
    version: str,
    base: str,
    adapters: Mapping[Tactic, Path],
    encoder: PromptEncoder,
    dtype: str,
) -> NDArray[np.float64]:
    """What PEFT says of the probes: from `self_check.json` if it is about these weights, else by running it.

    The file is (re)written where the folder may be written to.
    """
    file = folder / FILE
    requests = probe_requests(encoder)
    stored = _stored(file, version, dtype, len(requests))
    if stored is not None:
        return stored
    found = peft_log_odds(base, adapters, encoder.answer_ids, requests, dtype)
    if os.access(folder, os.W_OK):
        write_whole(file, json.dumps({"version": version, "dtype": dtype, "log_odds": found.tolist()}) + "\n")
    return found


def check(engine: AnswerEngine, encoder: PromptEncoder, expected: NDArray[np.float64], dtype: str) -> None:
    """Compare vLLM with `expected`, in batches that mix adapters and in those that do not.

    Raises:
        SelfCheckError: a probability differs by more than the tolerance of `dtype`.
    """
    requests = probe_requests(encoder)
    for grouped in (False, True):
        differences = np.abs(probabilities(engine.log_odds(requests, grouped)) - probabilities(expected))
        worst = int(differences.argmax())
        if differences[worst] > TOLERANCE[dtype]:
            raise SelfCheckError(
                f"vLLM's probability that a probe shows {requests[worst].tactic} differs from PEFT's by "
                f"{differences[worst]:.2g} (allowed in {dtype}: {TOLERANCE[dtype]:g}; {_wrong(differences, dtype)} of "
                f"{len(requests)} probes are off, {'one adapter at a time' if grouped else 'adapters mixed'}). The "
                f"tagger would answer wrongly. Install the vLLM of this project's lock, or set engine.dtype to "
                f"float32 in the tagger's lora_tagger.json; if the adapters were changed by hand, delete {FILE}"
            )


def probabilities(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the two answers: p = 1 / (1 + exp(-(log p1 - log p0)))."""
    from scipy.special import expit

    return np.asarray(expit(log_odds), dtype=np.float64)


def _wrong(differences: NDArray[np.float64], dtype: str) -> int:
    return int((differences > TOLERANCE[dtype]).sum())


def _stored(file: Path, version: str, dtype: str, probes: int) -> NDArray[np.float64] | None:
    """The stored answers, if there are any for this version and dtype."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # PEFT is asked again
    if not isinstance(content, dict) or (content.get("version"), content.get("dtype")) != (version, dtype):
        return None
    log_odds = content.get("log_odds")
    return np.array(log_odds, dtype=np.float64) if isinstance(log_odds, list) and len(log_odds) == probes else None
