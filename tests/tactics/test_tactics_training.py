"""Data, training and the adapters: what is parsed, what is kept apart, and that the loss goes down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dialogue.tactics import TACTICS, Tactic
from reward_servers.encoder import encoder_folder
from reward_servers.tactics.building import Builder, Recipe, TagData, load_tag_data
from reward_servers.tactics.commands import OutFolderError, app
from reward_servers.tactics.data import (
    TagDataError,
    TaggedReply,
    TagSource,
    held_out_conversations,
    label_matrix,
    load_annotations,
    load_outputs,
    load_weak_labels,
    normalised,
    without_sentences_of,
)
from reward_servers.tactics.encoder_tagger import EncoderTagger
from reward_servers.tactics.evaluation import macro_f1
from reward_servers.tactics.machine_state import MachineStateError, load_state, save_state
from reward_servers.tactics.network import TacticNetwork, padded_batch, pooling_matrix
from reward_servers.tactics.shipping import TaggerConfig, load_tagger, save_tagger
from reward_servers.tactics.training import NoLossError, StageConfig, examples_of, train_stage
from reward_servers.tactics.windows import SentenceWindows

FLOOR = 0.82  # macro F1 on released tags; measured for the shipped weights: systems 0.88, people 0.77
CONTEXT = "I hear you.\n\nWhat happened next?"


def annotation(sentence: str, answer: str) -> str:
    question = (
        "### Instruction:\n\nRead.\n\n### Input:\n- Context (Full Empathic Response):\n"
        f"{CONTEXT}\n\n- Sentence to Evaluate:\n{sentence}\n\n### Response:"
    )
    turns = [("system", "Tag."), ("user", question), ("assistant", answer)]
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n"


def write_annotations(folder: Path, last_answer: str = "<score>0</score>") -> None:
    for tactic in TACTICS:
        asked = tactic is Tactic.QUESTIONING
        lines = annotation("I hear you.", f"<score>{int(tactic is Tactic.VALIDATION)}</score>")
        lines += annotation("What happened next?", "<score>1</score>" if asked else last_answer)
        (folder / f"{tactic}.jsonl").write_text(lines, encoding="utf-8")


def tagged(group: str, *pairs: tuple[str, tuple[str, ...]]) -> TaggedReply:
    sentences = tuple(s for s, _ in pairs)
    return TaggedReply(
        TagSource.HUMAN, group, sentences, label_matrix([t for _, t in pairs]), np.ones(len(pairs), dtype=bool)
    )


MADE_UP = [
    tagged("a", ("How are you?", ("questioning",)), ("You could rest.", ("advice",))),
    tagged("b", ("I am so sorry.", ("emotional_expression",)), ("Why did he go?", ("questioning",))),
    tagged("c", ("Try to call her.", ("advice",)), ("Oh no, I am sorry!", ("emotional_expression",))),
]


@pytest.fixture(scope="module")
def windows() -> SentenceWindows:
    return SentenceWindows(encoder_folder())


def trained(windows: SentenceWindows) -> tuple[TacticNetwork, list[float]]:
    torch.manual_seed(0)
    network = TacticNetwork(encoder_folder(), rank=4, scale=8.0, adapted_layers=2)
    examples = examples_of(MADE_UP, network, windows)
    return network, train_stage(network, examples, StageConfig(epochs=12, learning_rate=3e-3, batch_tokens=64))


def test_annotations_become_one_reply_with_all_ten_labels(tmp_path: Path) -> None:
    write_annotations(tmp_path)
    (reply,) = load_annotations(tmp_path)
    assert reply.group == CONTEXT
    assert reply.sentences == ("I hear you.", "What happened next?")
    assert np.array_equal(reply.labels, label_matrix([["validation"], ["questioning"]]))


def test_an_answer_without_a_score_is_named_with_file_and_line(tmp_path: Path) -> None:
    write_annotations(tmp_path, last_answer="no")
    with pytest.raises(TagDataError, match=r"information\.jsonl, line 2"):
        load_annotations(tmp_path)


def test_a_missing_tactic_file_is_named(tmp_path: Path) -> None:
    write_annotations(tmp_path)
    (tmp_path / "advice.jsonl").unlink()
    with pytest.raises(TagDataError, match=r"advice\.jsonl"):
        load_annotations(tmp_path)


def test_tags_that_do_not_fit_the_sentences_are_refused(tmp_path: Path) -> None:
    (tmp_path / "gold").mkdir()
    path = tmp_path / "gold" / "conversations_tagged.json"
    turn = {"conversation_id": "1", "model_response": "One. Two.", "sentence_tactics": [["advice"]]}
    path.write_text(json.dumps([turn]), encoding="utf-8")
    with pytest.raises(TagDataError, match="turn 0: 2 sentences, but tags of 1"):
        load_outputs(tmp_path)


def test_a_weak_label_for_no_turn_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("[]", encoding="utf-8")
    (tmp_path / "w.jsonl").write_text('{"conversation_id": "x", "turn": 1, "sentence_tactics": []}\n', encoding="utf-8")
    with pytest.raises(TagDataError, match="line 1"):
        load_weak_labels(tmp_path / "c.json", tmp_path / "w.jsonl")


def test_held_out_replies_and_their_sentences_leave_training() -> None:
    held_out = [tagged("x", ("how are you", ("questioning",))), tagged("c", ("Else.", ()))]
    kept = without_sentences_of(MADE_UP, held_out)
    assert [r.group for r in kept] == ["a", "b"]
    assert kept[0].use.tolist() == [False, True]
    assert kept[1].use.all()
    assert normalised("How  are you?") == normalised("how are you")


def test_training_on_a_made_up_set_lowers_the_loss(windows: SentenceWindows) -> None:
    _, losses = trained(windows)
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])


def test_training_again_gives_the_same_losses(windows: SentenceWindows) -> None:
    assert trained(windows)[1] == trained(windows)[1]


def test_only_adapters_and_head_are_trained_and_merging_them_changes_nothing(windows: SentenceWindows) -> None:
    network, _ = trained(windows)
    assert all("lora" in name or name.startswith("head.") for name in network.trained_state())
    (window,) = windows.of_reply(["You could rest.", "Why?"])
    inputs = torch.tensor([window.token_ids]), None, pooling_matrix([window], len(window.token_ids))
    with torch.no_grad():
        before = network(*inputs)
        network.merge_adapters()
        assert torch.allclose(network(*inputs), before, atol=1e-5)


def test_padding_does_not_change_a_window_s_logits(windows: SentenceWindows) -> None:
    network, _ = trained(windows)
    pair = [windows.of_reply([text])[0] for text in ("Why?", "You could rest a while and then call your sister again.")]
    with torch.no_grad():
        padded = network(*padded_batch(pair))
        alone = network(torch.tensor([pair[0].token_ids]), None, pooling_matrix(pair[:1], len(pair[0].token_ids)))
    assert torch.allclose(padded[0, 0], alone[0, 0], atol=1e-5)


def test_saved_and_loaded_again_it_tags_alike(windows: SentenceWindows, tmp_path: Path) -> None:
    from reward_servers.tactics.network import encoder_digest

    network, _ = trained(windows)
    config = TaggerConfig(4, 8.0, 2, {t.value: 0.5 for t in TACTICS}, encoder_digest(encoder_folder()))
    save_tagger(tmp_path, network, config)
    loaded, again, version = load_tagger(tmp_path)
    assert again == config
    assert len(version) == 16
    (window,) = windows.of_reply(["You could rest."])
    inputs = torch.tensor([window.token_ids]), None, pooling_matrix([window], len(window.token_ids))
    with torch.no_grad():
        assert torch.allclose(loaded(*inputs), network(*inputs), atol=0.02)  # float16 on disk


def test_both_stages_and_cross_validation_on_a_made_up_set() -> None:
    stage = StageConfig(epochs=2, learning_rate=2e-3, batch_tokens=64)
    machine = [replace(r, source=source) for r in MADE_UP for source in (TagSource.LISTENER, TagSource.SYSTEM)]
    human = tuple(replace(r, group=f"human {r.group}") for r in MADE_UP)
    recipe = Recipe(machine_stage=stage, human_stage=stage)
    other = tagged("m", ("Something else entirely.", ("information",)))
    data = TagData((*machine, replace(other, source=TagSource.LISTENER)), (), human, ())
    told: list[tuple[str, int, int]] = []
    builder = Builder(data, recipe, lambda stage, step, steps, _: told.append((stage, step, steps)))
    with pytest.raises(TagDataError, match="4 folds, but people labelled 3 replies"):
        builder.check_folds(4)
    state = builder.machine_stage().trained_state()
    result = builder.cross_validate(state, folds=3)
    assert result.probabilities.shape == result.decisions.shape == result.truth.shape == (6, 10)
    assert np.all((result.probabilities > 0) & (result.probabilities < 1))
    assert result.replies == (0, 0, 1, 1, 2, 2)
    assert result.evaluation().sentences == 6
    assert [stage for stage, step, steps in told if step == steps] == [
        "machine tags",
        *(f"fold {k} of 3" for k in (1, 2, 3)),
    ]


def test_the_first_stage_is_used_again_for_what_it_was_made_from_and_for_nothing_else(tmp_path: Path) -> None:
    path, state = tmp_path / "machine.safetensors", {"head.bias": torch.arange(3.0)}
    data = TagData(tuple(MADE_UP), (), (), ())
    same, other = (Builder(d).machine_identity for d in (data, replace(data, machine=data.machine[1:])))
    assert same == Builder(data).machine_identity != other
    assert Builder(data, Recipe(human_weight=5.0)).machine_identity == same  # of the second stage
    assert Builder(data, Recipe(weak_weight=5.0)).machine_identity != same
    save_state(path, state, same)
    assert torch.equal(load_state(path, same)["head.bias"], state["head.bias"])
    with pytest.raises(MachineStateError, match="other labels than these"):
        load_state(path, other)
    path.write_bytes(path.read_bytes()[:20])  # torn by a full disk
    with pytest.raises(MachineStateError, match="cannot be read"):
        load_state(path, same)


def test_a_loss_that_is_no_number_ends_the_training(windows: SentenceWindows) -> None:
    network = TacticNetwork(encoder_folder(), rank=4, scale=8.0, adapted_layers=2)
    with torch.no_grad():
        network.head.bias[0] = float("nan")
    with pytest.raises(NoLossError, match="step 1 of 1"):
        train_stage(network, examples_of(MADE_UP, network, windows), StageConfig(1, 1e-3))


def test_what_the_command_cannot_read_or_write_is_told_before_it_trains(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    runner = CliRunner()
    refused = runner.invoke(app, ["train", "--data", str(tmp_path), "--out", str(tmp_path / "file" / "out")])
    assert isinstance(refused.exception, OutFolderError)
    outputs = tmp_path / "mint" / "outputs" / "gold"
    outputs.mkdir(parents=True)
    turn = {"conversation_id": "1", "model_response": "One.", "sentence_tactics": [["advice"]]}
    (outputs / "conversations_tagged.json").write_text(json.dumps([turn]), encoding="utf-8")
    torn = runner.invoke(app, ["train", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert isinstance(torn.exception, TagDataError) and "conversations_322.json does not exist" in str(torn.exception)
    (tmp_path / "mint" / "conversations_322.json").write_text('[{"conversation_id"', encoding="utf-8")
    torn = runner.invoke(app, ["train", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert isinstance(torn.exception, TagDataError) and "is the file cut off?" in str(torn.exception)


def test_held_out_conversations_are_in_no_training_data(real_data: Path) -> None:
    held_out = held_out_conversations()
    data = load_tag_data(real_data)
    assert len(held_out) == 15
    assert {r.group for r in data.held_out} == held_out
    assert not {r.group for r in (*data.machine, *data.weak)} & held_out
    assert sum(len(r.sentences) for r in data.human) == 286


def test_shipped_tagger_agrees_with_released_tags_of_conversations_it_never_saw(real_data: Path) -> None:
    tagger = EncoderTagger.load()
    replies = load_tag_data(real_data).held_out[::7]
    truth = np.concatenate([r.labels for r in replies])
    found = [label_matrix(tagger.decide(p)) for p in tagger.tag([r.sentences for r in replies])]
    assert macro_f1(truth, np.concatenate(found)).mean() > FLOOR
