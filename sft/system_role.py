"""The system prompt in chat templates without a place for one: some refuse that role, some leave its text out unsaid.

There the text opens the first turn of the user, as these models' makers advise; else the safety rules, the hidden
reflection and the memory of a chat would never be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dialogue.conversation import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "a text that no template has"


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template shows a system prompt; tried out on one."""
    from jinja2.exceptions import TemplateError  # what a template's own `raise_exception` raises

    messages = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "Hi."}]
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except TemplateError:  # a refusal is an answer here
        return False
    return _PROBE in str(text)


def system_in_first_turn(messages: Sequence[Message]) -> list[Message]:
    """The same without a system message: its text and an empty line open the turn after it."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return list(messages)
    system, first, *rest = messages
    return [{"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}, *rest]
