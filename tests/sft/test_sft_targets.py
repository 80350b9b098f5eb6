"""The layers that get an adapter: a name that the base does not have is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.config import ConfigError, LoraConfig
from sft.config_loading import load_config
from sft.preparing import prepare
from sft.targets import check_targets


def test_a_misspelt_layer_beside_a_right_one_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """peft would train the right one and say nothing."""
    config = load_config(
        "quickstart",
        [f"model.path={tiny_model}", f"output_dir={tmp_path}", "model.lora.target_modules=[q_proj,v_porj]"],
    )
    with pytest.raises(ConfigError, match=r"has no layer 'v_porj' \(did you mean v_proj\?.*q_proj, up_proj, v_proj"):
        prepare(config)


@pytest.mark.parametrize("names", [("q_proj", "down_proj"), ("self_attn.q_proj",), ("lm_head",)])
def test_the_last_parts_of_a_full_name_are_a_name(tiny_model: Path, names: tuple[str, ...]) -> None:
    check_targets(tiny_model, LoraConfig(target_modules=names))


@pytest.mark.parametrize("name", ["proj", "_proj", "Q_proj", "all-linear", "q_proj.weight"])
def test_other_parts_are_not(tiny_model: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="has no layer"):
        check_targets(tiny_model, LoraConfig(target_modules=(name,)))
