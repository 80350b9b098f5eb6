"""Chat templates without a system prompt, and bases with few positions: found before a run, not in its first step."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dialogue.conversation import Conversation, Role, Turn
from sft.config import ConfigError
from sft.examples import Example, Loss, Source, Split
from sft.preparing import Prepared
from sft.safety_rules import RULES
from sft.system_role import system_in_first_turn, takes_system
from sft.tokens import ChatTokens, TokenConfig

RunOf = Callable[..., Prepared]

TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
WITHOUT_SYSTEM = {
    "refuses": f"{REFUSES}{{% for m in messages %}}{TURN}{{% endfor %}}{OPENING}",
    "forgets": f"{{% for m in messages if m['role'] != 'system' %}}{TURN}{{% endfor %}}{OPENING}",
}


@pytest.fixture(params=WITHOUT_SYSTEM)
def strict(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = WITHOUT_SYSTEM[request.param]
    return changed


def test_whether_a_template_shows_a_system_prompt_is_tried_out(tokenizer: Any, strict: Any) -> None:
    assert takes_system(tokenizer) and not takes_system(strict)


def test_its_text_opens_the_first_turn() -> None:
    asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi."}]
    assert system_in_first_turn(asked) == [{"role": "user", "content": "Be kind.\n\nHi."}]  # type: ignore[arg-type]
    assert system_in_first_turn(asked[1:]) == asked[1:]  # type: ignore[arg-type, comparison-overlap]


def test_the_safety_teacher_reads_the_rules_all_the_same(strict: Any) -> None:
    said = ("I took too many pills.", "Please call for help.", "I did.", "I am glad.")
    turns = tuple(Turn((Role.SEEKER, Role.SUPPORTER)[n % 2], text) for n, text in enumerate(said))
    given = Example(Conversation("c", turns), Source.OWN, Split.TRAIN, frozenset({Loss.LM, Loss.SAFETY}))
    chat = ChatTokens(strict, TokenConfig())
    (student,) = chat.tokenise(given).sequences
    teacher = chat.under_system(student, RULES)
    text = strict.decode(teacher.ids)
    assert text.startswith(f"<|im_start|>user\n{RULES}\n\nI took too many") and text.count(RULES) == 1
    assert RULES not in strict.decode(student.ids)
    opening = chat.opening(RULES)
    assert len(opening) > 100 and teacher.ids[: len(opening)] == opening
    (prompted,) = ChatTokens(strict, TokenConfig(system="Be kind.")).tokenise(given).sequences
    assert strict.decode(prompted.ids).startswith("<|im_start|>user\nBe kind.\n\nI took")


@pytest.mark.parametrize(
    ("positions", "overrides", "message"),
    [
        (20, ("losses.safety=0",), r"the longest sequence has \d+ tokens, but .* takes 20: set data\.max_tokens to 20"),
        (120, (), r"has \d+ tokens behind \d+ of the safety rules, but .* takes 120: take another base"),
    ],
)
def test_sequences_past_the_last_position_of_the_base_are_refused_before_its_weights_are_read(
    tiny_model: Path, run_of: RunOf, tmp_path: Path, positions: int, overrides: tuple[str, ...], message: str
) -> None:
    short = tmp_path / "short"
    shutil.copytree(tiny_model, short)
    (short / "model.safetensors").unlink()
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))
    with pytest.raises(ConfigError, match=message):
        run_of(f"model.path={short}", *overrides)
