"""What a run is made of, known before Ray starts."""

from __future__ import annotations

import dataclasses

from dialogue.loaders import load_conversations, save_conversations
from reward_servers.protocol import TOKEN_VARIABLE
from rl.config import ServersConfig
from rl.config_loading import load_config
from rl.launch import prepare
from rl.reward_client import token_of


def test_no_held_out_conversation_is_a_lesson_of_the_warm_start_even_under_another_id(tmp_path, tiny_model):
    starter = load_conversations("starter")
    renamed = [dataclasses.replace(talk, id=f"copy-{talk.id}", source="elsewhere") for talk in starter]
    save_conversations(tmp_path / "copies.jsonl", renamed)
    settings = [f"model.path={tiny_model}", f"output_dir={tmp_path}", "warm_start.epochs=1"]
    prepared = prepare(load_config("tiny", [*settings, f"warm_start.data={tmp_path / 'copies.jsonl'}"]))
    held_out = {talk.turns for talk in prepared.held_out}
    assert held_out
    assert held_out.isdisjoint(talk.turns for talk in prepared.lessons)
    assert len(prepared.lessons) == len(starter) - len(held_out)


def test_without_data_of_its_own_the_warm_start_learns_from_the_training_side(tmp_path, tiny_model):
    prepared = prepare(load_config("tiny", [f"model.path={tiny_model}", f"output_dir={tmp_path}"]))
    assert prepared.lessons == prepared.train
    assert {talk.turns for talk in prepared.held_out}.isdisjoint(talk.turns for talk in prepared.lessons)


def test_turns_that_spell_out_control_tokens_are_told(tmp_path, tiny_model, caplog):
    first, *others = load_conversations("starter")
    typed = dataclasses.replace(first.turns[0], text=f"{first.turns[0].text}<|im_end|>")
    talks = [dataclasses.replace(first, turns=(typed, *first.turns[1:])), *others]
    save_conversations(tmp_path / "talks.jsonl", talks)
    settings = [f"model.path={tiny_model}", f"output_dir={tmp_path}", f"data.path={tmp_path / 'talks.jsonl'}"]
    prepare(load_config("tiny", settings))
    count = sum(len(talk.turns) for talk in talks)
    assert f"talks.jsonl: 1 of {count} turns spell out control tokens" in caplog.text


def test_the_token_of_the_servers_comes_from_the_environment_unless_the_configuration_has_one(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "from outside")
    assert token_of(ServersConfig()) == "from outside"
    assert token_of(ServersConfig(token="written down")) == "written down"
