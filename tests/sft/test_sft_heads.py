"""The network: heads at the right place, hidden size from the configuration, saving, loading and predicting."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dialogue.conversation import Conversation, Role, Turn
from dialogue.loaders import DataError
from sft.base import BITSANDBYTES, BaseModelError, compute_dtype
from sft.batching import collate
from sft.config import ConfigError, LoraConfig, Precision
from sft.examples import Loss
from sft.model import SftModel
from sft.predict import Predictor, Sampling
from sft.preparing import Prepared
from sft.saved import HEADS, SavedModelError, load_model, save_model
from sft.tokens import ChatTokens

RunOf = Callable[..., Prepared]
ModelOf = Callable[..., SftModel]

CPU = torch.device("cpu")
SAID = Conversation("c", (Turn(Role.SEEKER, "My cat is ill."),))


def test_heads_read_where_the_seeker_ends_and_where_the_reply_opens(run_of: RunOf, model_of: ModelOf) -> None:
    prepared = run_of()
    model = model_of(prepared).eval()
    row = next(iter(prepared.corpus.sequences.values()))[1]
    batch = collate([row], prepared.pad_id)
    said = [{"role": "user", "content": row.turns[0].text}]
    with torch.no_grad():
        states = model.states(batch.ids, batch.attention)
        for loss, opening in ((Loss.EMOTION, False), (Loss.STRATEGY, True)):
            text = prepared.tokenizer.apply_chat_template(said, add_generation_prompt=opening, tokenize=False)
            ids = torch.tensor([prepared.tokenizer.encode(text, add_special_tokens=False)])
            last = model.states(ids, torch.ones_like(ids))[0, -1:]
            torch.testing.assert_close(model.read(loss, batch, states), model.heads.read(loss, last))


def test_inference_reads_the_places_that_training_reads(run_of: RunOf) -> None:
    prepared = run_of()
    row = next(iter(prepared.corpus.sequences.values()))[1]
    prompt = prepared.chat.prompt(Conversation("c", row.turns[:1]))
    assert prompt.seeker_end == row.emotions[0].position
    assert len(prompt.ids) - 1 == row.strategies[0].position
    assert prompt.ids == row.ids[: row.replies[0].start]


def test_a_long_history_is_cut_from_the_left_by_whole_turns(tokenizer, run_of: RunOf) -> None:
    prepared = run_of("data.max_tokens=40")
    turns = tuple(Turn((Role.SEEKER, Role.SUPPORTER)[n % 2], f"Turn {n}.") for n in range(21))
    ids = prepared.chat.prompt(Conversation("c", turns)).ids
    assert len(ids) <= 40
    text = tokenizer.decode(ids)
    assert "Turn 20." in text and "Turn 0." not in text
    assert text.startswith("<|im_start|>user")


def test_hidden_size_is_the_models(run_of: RunOf, model_of: ModelOf) -> None:
    model = model_of(run_of())
    shapes = {name: tuple(value.shape) for name, value in model.heads.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "emotion.layers.0.weight": (512, 256),
        "emotion.layers.3.weight": (27, 512),
        "strategy.layers.0.weight": (256, 256),
        "strategy.layers.3.weight": (8, 256),
    }


def test_a_lambda_of_0_leaves_its_head_out(run_of: RunOf, model_of: ModelOf) -> None:
    prepared = run_of("losses.emotion=0")
    model = model_of(prepared)
    assert sorted(model.heads) == ["strategy"]
    assert Loss.EMOTION not in prepared.corpus.feeds()
    prediction = Predictor(model, prepared.tokenizer, prepared.config.data).predict(SAID, Sampling(2))
    assert prediction.emotion is None and prediction.strategy is not None


def test_saved_and_loaded_by_one_call_it_predicts_the_same(run_of: RunOf, model_of: ModelOf, tmp_path: Path) -> None:
    prepared = run_of()
    model = model_of(prepared, stirred=True)
    save_model(model, prepared.config, tmp_path)
    before = Predictor(model, prepared.tokenizer, prepared.config.data).predict(SAID, Sampling(8))
    after = Predictor.load(tmp_path, CPU).predict(SAID, Sampling(8))
    assert after == before
    assert after.emotions is not None and sum(after.emotions.values()) == pytest.approx(1)
    assert after.strategies is not None and sum(after.strategies.values()) == pytest.approx(1)
    assert after.emotions[after.emotion] == max(after.emotions.values())  # type: ignore[index]


def test_heads_that_an_older_version_saved_are_refused_with_what_they_lack(
    run_of: RunOf, model_of: ModelOf, tmp_path: Path
) -> None:
    prepared = run_of()
    save_model(model_of(prepared), prepared.config, tmp_path)
    older = {name: value for name, value in load_file(tmp_path / HEADS).items() if "layers" in name}
    save_file(older, tmp_path / HEADS)
    with pytest.raises(SavedModelError, match=r"heads\.safetensors lacks emotion\.mean, .*train anew"):
        load_model(tmp_path, CPU)


def test_only_the_seeker_is_answered(run_of: RunOf) -> None:
    prepared = run_of()
    said = Conversation("c", (*SAID.turns, Turn(Role.SUPPORTER, "Oh no.")))
    with pytest.raises(DataError, match="the last turn must be the seeker's"):
        prepared.chat.prompt(said)


def test_labels_of_another_order_are_refused(run_of: RunOf, model_of: ModelOf, tmp_path: Path) -> None:
    prepared = run_of()
    save_model(model_of(prepared), prepared.config, tmp_path)
    info = json.loads((tmp_path / "heads.json").read_text())
    info["labels"]["strategy"].reverse()
    (tmp_path / "heads.json").write_text(json.dumps(info))
    with pytest.raises(SavedModelError, match="labels"):
        load_model(tmp_path, CPU)
    with pytest.raises(SavedModelError, match=r"has no sft\.yaml"):
        load_model(tmp_path / "elsewhere", CPU)


def test_a_broken_copy_names_its_file(run_of: RunOf, model_of: ModelOf, tmp_path: Path) -> None:
    prepared = run_of()
    save_model(model_of(prepared), prepared.config, tmp_path)
    heads = (tmp_path / "heads.safetensors").read_bytes()
    (tmp_path / "heads.safetensors").write_bytes(heads[:500])
    with pytest.raises(SavedModelError, match=r"heads\.safetensors cannot be read"):
        load_model(tmp_path, CPU)
    (tmp_path / "heads.safetensors").write_bytes(heads)
    written = (tmp_path / "sft.yaml").read_text()
    (tmp_path / "sft.yaml").write_text(written.replace("- o_proj", "- o_proj\n    - up_proj"))
    with pytest.raises(SavedModelError, match=r"its adapter lacks .*up_proj"):  # it would be silently untrained
        load_model(tmp_path, CPU)
    (tmp_path / "sft.yaml").write_text(written)
    (tmp_path / "heads.json").write_text("{")
    with pytest.raises(SavedModelError, match=r"heads\.json cannot be read"):
        load_model(tmp_path, CPU)


def test_a_base_without_weights_is_refused_by_name(run_of: RunOf, model_of: ModelOf, tmp_path: Path) -> None:
    prepared = run_of()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_bytes((prepared.base / "config.json").read_bytes())
    with pytest.raises(BaseModelError, match="empty: transformers cannot open it"):
        model_of(replace(prepared, base=tmp_path / "empty"))


@pytest.mark.parametrize(
    "mistake", [{"temperature": float("nan")}, {"temperature": -0.1}, {"top_p": 0.0}, {"max_new_tokens": -1}]
)
def test_sampling_that_makes_no_sense(mistake: dict) -> None:
    ((name, value),) = mistake.items()
    with pytest.raises(ConfigError, match=f"{name}={value}: must"):
        Sampling(**mistake)


def test_a_reply_ends_with_any_token_that_the_model_ends_turns_with(run_of: RunOf, model_of: ModelOf) -> None:
    """Gemma closes turns with another token than its tokenizer's eos_token; its generation settings name both."""
    prepared = run_of()
    model = model_of(prepared)
    predictor = Predictor(model, prepared.tokenizer, prepared.config.data)
    prompt = torch.tensor([prepared.chat.prompt(SAID).ids])
    second = model.lm.generate(input_ids=prompt, max_new_tokens=2, do_sample=False)[0, -1].item()
    model.lm.generation_config.eos_token_id = [prepared.tokenizer.eos_token_id, second]
    free = predictor.predict(SAID, Sampling(2)).reply
    assert predictor.predict(SAID, Sampling(8)).reply == free


def test_what_cannot_run_here_says_so(run_of: RunOf, model_of: ModelOf) -> None:
    prepared, lora = run_of(), LoraConfig(target_modules=("query",))
    changed = replace(prepared.config, model=replace(prepared.config.model, lora=lora))
    with pytest.raises(BaseModelError, match=r"target_modules=\[query\]"):
        model_of(replace(prepared, config=changed))
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ConfigError, match=rf"nf4: needs bitsandbytes.* --no-deps {BITSANDBYTES}"):
            run_of("model.quantisation=nf4")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="float16: only on CUDA"):
            run_of("model.precision=float16")


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "expected"),
    [("cpu", None, torch.float32), ("cuda", False, torch.float16), ("cuda", True, torch.bfloat16)],
)
def test_auto_precision(device: str, has_bfloat16: bool | None, expected: torch.dtype) -> None:
    assert compute_dtype(Precision.auto, torch.device(device), has_bfloat16) is expected


def test_a_tokenizer_without_a_chat_template_is_refused(tiny_model: Path, run_of: RunOf) -> None:
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(tiny_model)
    bare.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        ChatTokens(bare, run_of().chat._config)
