"""Which folders can be talked with, how long a talk may get, and what the detector hears of our own replies."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dialogue.conversation import Message, Role, Turn
from dialogue.crisis.detector import detect
from dialogue.crisis.rules import CrisisKind
from sft.chat import ChatOptions, Companion
from sft.chat.memory import MemoryMode
from sft.chat.policy import show, without_resources
from sft.chat.resources import load_resources
from sft.chat.speaker import ChatError, Speaker, load_speaker
from sft.predict import Sampling
from sft.saved import save_model

torch.set_num_threads(1)
CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parent.parent.parent
BOOK = load_resources()
SOMEBODY = "My friend says she wants to kill herself."


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was interrupted after two checkpoints, before anything was measured."""
    from sft.config_loading import load_config
    from sft.model import build_model

    folder = tmp_path_factory.mktemp("run")
    config = load_config("quickstart", [f"model.path={tiny_model}"])
    for step in ("step-000002", "step-000010"):
        (folder / "checkpoints" / step).mkdir(parents=True)
        save_model(build_model(config, tiny_model, CPU), config, folder / "checkpoints" / step)
    return folder


def test_an_exported_run_is_talked_with_and_keeps_its_heads(run: Path, tmp_path: Path) -> None:
    from sft.export import export_model

    assert export_model(run, tmp_path / "out") == run / "checkpoints" / "step-000010"
    talk = Companion.load(tmp_path / "out", ChatOptions(sampling=Sampling(2)), CPU)
    assert talk.reply("I lost my keys.").emotion is not None


def test_an_interrupted_run_is_talked_with_through_its_newest_checkpoint(run: Path) -> None:
    from sft.saved import tuned_folder

    assert tuned_folder(run) == run / "checkpoints" / "step-000010"
    assert load_speaker(str(run), CPU).has_heads


def test_a_run_with_gradient_checkpointing_talks_like_any_other(tiny_model: Path, tmp_path: Path) -> None:
    from sft.config_loading import load_config
    from sft.model import build_model

    config = load_config("quickstart", [f"model.path={tiny_model}", "model.gradient_checkpointing=true"])
    save_model(build_model(config, tiny_model, CPU), config, tmp_path)
    speaker = load_speaker(str(tmp_path), CPU)
    assert not speaker._lm.is_gradient_checkpointing
    asked: list[Message] = [{"role": "user", "content": "I lost my keys."}]
    plain = load_speaker(str(tiny_model), CPU)
    assert speaker.write(asked, Sampling(4), 0) == plain.write(asked, Sampling(4), 0)  # the adapter is new


def test_a_template_that_forgets_the_system_prompt_still_shows_the_model_what_is_hidden(tiny_model: Path) -> None:
    speaker = load_speaker(str(tiny_model), CPU)
    forgets = copy.copy(speaker.tokenizer)
    forgets.chat_template = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}"
    asked: list[Message] = [{"role": "system", "content": "A note."}, {"role": "user", "content": "Hi."}]
    ids = Speaker(speaker._lm, forgets)._encode(asked)
    assert forgets.decode(ids) == "A note.\n\nHi."
    forgets.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(ChatError, match=r"chat template refuses the conversation .*never"):
        Speaker(speaker._lm, forgets)._encode(asked)


class Short:
    """A speaker whose model takes 900 characters."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.system, self.asked = tokenizer, "Be kind.", list[list[Message]]()

    def room(self, messages: list[Message]) -> int:
        return 900 - len(json.dumps(messages))

    def read(self, turns: Any) -> Any:
        from sft.chat.speaker import Reading

        return Reading()

    def write(self, messages: list[Message], *_: Any, **__: Any) -> str:
        assert self.room(messages) >= 8
        self.asked.append(messages)
        return "That sounds hard, I am here."


@pytest.mark.parametrize("longest", [8, 5000])
def test_a_kept_history_loses_its_earliest_exchanges_and_the_talk_goes_on(tiny_model: Path, longest: int) -> None:
    speaker = Short(load_speaker(str(tiny_model), CPU).tokenizer)
    options = ChatOptions(memory=MemoryMode.HISTORY, sampling=Sampling(longest))
    talk = Companion(speaker, options)  # type: ignore[arg-type]
    for number in range(8):
        talk.reply(f"Nobody came to party {number}.")
    last = [message["content"] for message in speaker.asked[-1]]
    assert last[-1].endswith("party 7.") and last[-3:-1] == ["Nobody came to party 6.", "That sounds hard, I am here."]
    assert not any("party 0" in text for text in last) and len(talk.history) == 16
    assert [m["role"] for m in speaker.asked[-1][1:3]] == ["user", "assistant"]


@pytest.mark.parametrize("locale", BOOK.names())
@pytest.mark.parametrize("urgent", [False, True])
def test_the_lines_that_we_offered_are_no_question_about_suicide(locale: str, urgent: bool) -> None:
    """A yes to "Suicide & Crisis Lifeline: call 988" is thanks, not an answer; a real question is still heard."""
    resources = BOOK.find(locale).resources
    verdict = type(detect(SOMEBODY))(CrisisKind.THIRD_PERSON, (), urgent)
    for written, kind in (
        ("It is good that she has you. You can call 988.", CrisisKind.NONE),
        ("Are you having thoughts of suicide yourself?", CrisisKind.SUICIDE),
    ):
        shown = show(written, verdict, resources).text
        heard = without_resources(shown, resources)
        said = (Turn(Role.SEEKER, SOMEBODY), Turn(Role.SUPPORTER, heard))
        assert detect("Yeah, thanks, I will tell her.", said).kind is kind, heard


def test_thanks_after_the_lines_raise_no_second_alarm(tiny_model: Path) -> None:
    talk = Companion(Short(load_speaker(str(tiny_model), CPU).tokenizer), ChatOptions(locale="en-US"))  # type: ignore[arg-type]
    first = talk.reply(SOMEBODY)
    assert first.verdict.kind is CrisisKind.THIRD_PERSON and "Suicide & Crisis Lifeline" in first.text
    assert talk.reply("Yeah, thanks, I will tell her.").verdict.kind is CrisisKind.NONE


@pytest.mark.parametrize(
    ("typed", "heard"), [("I am \udce9 sad.", "I am \ufffd sad."), ("\ud83d\ude22 Sad.", "\U0001f622 Sad.")]
)
def test_half_characters_from_a_terminal_break_nothing(tiny_model: Path, typed: str, heard: str) -> None:
    talk = Companion(load_speaker(str(tiny_model), CPU), ChatOptions(sampling=Sampling(2)))
    talk.reply(typed)
    assert talk.history[0].text == heard


def test_bytes_that_are_no_text_are_answered(tiny_model: Path) -> None:
    command = [sys.executable, str(ROOT / "rapport.py"), "chat", str(tiny_model), "--max-new-tokens", "2"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, input=b"caf\xe9\n", capture_output=True, timeout=240, cwd=ROOT, env=environment)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_an_empty_turn_on_the_command_line_is_refused() -> None:
    from rapport import app

    done = CliRunner().invoke(app, ["chat", "no-such-model", "--once", " "])
    assert done.exit_code == 2 and "the turn is empty" in done.output
