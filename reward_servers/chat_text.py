"""From the text that a chat template made back to messages, for callers that send text only, as OpenRLHF does.

Two templates are read: ChatML (Qwen, SmolLM2) and Llama 3's. A prompt without any template is the seeker's one message.
Text with marks of another template is refused rather than scored as if the marks were words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dialogue.conversation import Message
from dialogue.thinking import strip_thinking
from reward_servers.wire import WireError

_ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class _Template:
    """`opening` matches a message's opening with its role; `ends` are the marks that close it."""

    opening: re.Pattern[str]
    ends: tuple[str, ...]


_TEMPLATES = (
    _Template(re.compile(r"<\|im_start\|>(\w+)\n"), ("<|im_end|>", "<|endoftext|>")),
    _Template(
        re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\s*"),
        ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
    ),
)
_STARTS = ("<|begin_of_text|>", "<s>")
_ANY_MARK = re.compile(r"<\|[a-z_]+\|>|<｜|<start_of_turn>|\[/?INST\]")
_ENDS = re.compile("|".join(re.escape(end) for template in _TEMPLATES for end in template.ends) + "|</s>")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was said, system messages left out, and the reply with its thinking block taken off."""

    history: tuple[Message, ...]
    response: str


def read_exchange(query: str, prompt: str | None, place: str) -> Exchange:
    """The conversation and the reply in `query`.

    Args:
        query: prompt and reply together, as a chat template made it.
        prompt: the beginning of `query` that the policy was given. Without it, the reply is what follows the last
            opening of an assistant's message.
        place: names the query in errors.

    Raises:
        WireError: `query` does not begin with `prompt`, has no assistant's message, or is of another template.
    """
    if prompt is None:
        messages = _messages(query, place)
        if not messages or messages[-1]["role"] != _ASSISTANT:
            raise WireError(f"{place} has no reply: send `prompts` too, or end it with an assistant's message")
        return Exchange(_spoken(messages[:-1]), strip_thinking(messages[-1]["content"]))
    if not query.startswith(prompt):
        raise WireError(f"{place} does not begin with its prompt: {query[:40]!r} and {prompt[:40]!r}")
    reply = _ENDS.split(query[len(prompt) :], maxsplit=1)[0]
    messages = _messages(prompt, place)
    opened = messages.pop()["content"] if messages and messages[-1]["role"] == _ASSISTANT else ""
    return Exchange(_spoken(messages), strip_thinking(opened + reply).strip())


def _messages(text: str, place: str) -> list[Message]:
    """Messages of a templated text; of one without a template, its whole as the user's."""
    for template in _TEMPLATES:
        if openings := list(template.opening.finditer(text)):
            return _cut(text, template, openings, place)
    if mark := _ANY_MARK.search(text):
        raise WireError(
            f"{place} has {mark[0]!r} of a chat template that is not known here: "
            "send ChatML or Llama 3's, or plain text"
        )
    return [{"role": "user", "content": text.strip()}] if text.strip() else []


def _cut(text: str, template: _Template, openings: list[re.Match[str]], place: str) -> list[Message]:
    before = text[: openings[0].start()]
    for start in _STARTS:
        before = before.replace(start, "")
    if before.strip():
        raise WireError(f"{place} has {before.strip()[:40]!r} before its first message")
    bounds = [*(opening.start() for opening in openings[1:]), len(text)]
    contents = [text[opening.end() : bound] for opening, bound in zip(openings, bounds, strict=True)]
    ends = re.compile("|".join(map(re.escape, template.ends)))
    return [
        {"role": opening[1], "content": ends.split(content, maxsplit=1)[0].strip()}
        for opening, content in zip(openings, contents, strict=True)
    ]


def _spoken(messages: list[Message]) -> tuple[Message, ...]:
    return tuple(message for message in messages if message["role"] != "system")
