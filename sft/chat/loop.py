"""The three ways in which `rapport chat` is used: one turn, the lines of standard input, or a person at a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from sft.chat.companion import Companion, Reply
from sft.chat.speaker import ChatError

NOTICE = (
    "This is a research artifact, not therapy and no crisis service. It makes mistakes, and nobody reads along. "
    "If you are in danger, call your local emergency number; helplines in your country: findahelpline.com."
)
HELP = "/reset forgets the conversation, /quit ends it."


@dataclass(frozen=True, slots=True)
class Printing:
    """`as_json`: one object a line. `hidden`: what is not for showing as well, for developers."""

    as_json: bool = False
    hidden: bool = False


def notices(companion: Companion) -> list[str]:
    """What is said before the first turn: what this is, and whose crisis lines are offered where that was a guess."""
    return [NOTICE, *filter(None, [companion.resources.note])]


def run_script(companion: Companion, turns: Iterable[str], printing: Printing) -> None:
    """Answer turns in order, each on standard output; notices and failures go to standard error.

    `/reset` and `/quit` work as at a terminal, and empty lines are left out.
    """
    errors = Console(stderr=True)
    for notice in notices(companion):
        errors.print(Text(notice, style="dim"), soft_wrap=True)
    for line in turns:
        said = line.strip()
        if said == "/quit":
            break
        if said == "/reset":
            companion.reset()
        elif said:
            reply = companion.reply(said)
            _tell_failure(reply, errors)
            sys.stdout.write(_as_line(reply, printing))
            sys.stdout.flush()


def run_terminal(companion: Companion, printing: Printing, read: Callable[[str], str] = input) -> None:
    """Talk with a person until /quit, Ctrl-C or Ctrl-D."""
    console = Console()
    console.print(Panel(Text("\n".join(notices(companion))), title="rapport chat", subtitle=HELP, expand=False))
    while True:
        try:
            said = read("you: ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if said == "/quit":
            return
        if said == "/reset":
            companion.reset()
            console.print(Text("forgotten", style="dim"))
        elif said:
            try:
                _answer(companion, said, printing, console)
            except KeyboardInterrupt:
                console.print(Text("stopped; the turn is forgotten", style="dim"))


def _answer(companion: Companion, said: str, printing: Printing, console: Console) -> None:
    try:
        with console.status("..."):
            reply = companion.reply(said)
    except ChatError as error:  # too long, for instance: the person may try again
        console.print(Text(str(error), style="red"))
        return
    _tell_failure(reply, console)
    if printing.as_json:
        sys.stdout.write(_as_line(reply, printing))
        return
    if printing.hidden:
        console.print(Text(_hidden_part(reply), style="dim"))
    console.print(Text(reply.text, style="bold" if reply.verdict.is_crisis else ""))


def _tell_failure(reply: Reply, console: Console) -> None:
    if reply.failure:
        console.print(Text(f"the model failed, so a fixed reply is shown ({reply.failure})", style="red"))


def _as_line(reply: Reply, printing: Printing) -> str:
    if printing.as_json:
        return json.dumps(reply.as_dict(printing.hidden), ensure_ascii=False) + "\n"
    return f"{_hidden_part(reply)}\n{reply.text}\n" if printing.hidden else f"{reply.text}\n"


def _hidden_part(reply: Reply) -> str:
    parts = {
        "reflection": reply.reflection,
        "summary": reply.summary,
        "emotion": reply.emotion or "",
        "strategy": reply.strategy or "",
        "crisis": reply.verdict.kind.value if reply.verdict.is_crisis else "",
        "draft": reply.draft or "",
    }
    return "\n".join(f"[{name}] {value}" for name, value in parts.items() if value)
