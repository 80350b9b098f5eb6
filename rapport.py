"""The command line: `rapport COMMAND`, one Typer app, to which each room adds its own commands.

The table `COMMANDS` is all that `rapport --help` needs. A room is imported when one of its commands is called, so that
help appears at once although the rooms bring in torch, Ray and vLLM.

Exit codes: 0 done; 1 the run failed; 2 the call, its configuration or its data are at fault.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

__version__ = "0.1.0"

ROOMS = frozenset({"dialogue", "reward_servers", "rl", "sft", "evaluation", "cluster"})
USER_ERRORS = (ValueError, FileNotFoundError)
TRACEBACK_VARIABLE = "RAPPORT_TRACEBACK"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives: a function, or a Typer app for a group of commands, in a module of a room."""

    module: str
    attribute: str
    help: str

    def load(self, name: str) -> Any:
        target = getattr(importlib.import_module(self.module), self.attribute)
        if isinstance(target, typer.Typer):
            return typer.main.get_group(target)
        app = typer.Typer(add_completion=False)
        app.command(name)(target)
        return typer.main.get_command(app)


COMMANDS: dict[str, Entry] = {
    "train": Entry("rl.commands", "train", "Train a policy by GRPO: rapport train quickstart"),
    "export": Entry("rl.commands", "export", "Copy a checkpoint's weights as a Hugging Face folder."),
    "sft": Entry("sft.commands", "app", "Fine-tune with emotion and strategy heads: rapport sft quickstart"),
    "chat": Entry("sft.chat.commands", "chat", "Talk with a model: rapport chat smollm2-135m"),
    "tag": Entry("reward_servers.tactics.commands", "tag", "Name the supportive tactics of each sentence of replies."),
    "tagger": Entry("reward_servers.tactics.commands", "app", "Train, adopt and evaluate tactic taggers."),
    "score": Entry("reward_servers.empathy.commands", "score", "Score replies on the six dimensions of empathy."),
    "scorer": Entry("reward_servers.empathy.commands", "app", "Train empathy scorers; which one deserves trust?"),
    "serve": Entry("reward_servers.commands", "serve", "Serve tactics and empathy scores over HTTP: rapport serve"),
    "report": Entry("evaluation.report.commands", "report", "One HTML file about a run, or several compared."),
    "evaluate": Entry("evaluation.commands", "app", "Measure systems as the papers do."),
    "judge": Entry("evaluation.judge.commands", "app", "An LLM as judge of empathy: may it be trusted?"),
}


class LazyCommand(TyperCommand):
    """A name and a line of help; the command itself is loaded when it is called."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, help=entry.help)
        self._load: Callable[[], Any] = cache(lambda: entry.load(name))

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self._load().make_context(info_name, args, parent=parent, **extra)


class LazyGroup(TyperGroup):
    """The commands of `COMMANDS`, in that order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: LazyCommand(name, entry) for name, entry in COMMANDS.items()}


app = typer.Typer(
    cls=LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rapport {__version__}")
        raise typer.Exit


@app.callback()
def rapport(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train language models to be good company in hard moments: warm, and not always in the same way."""


def main() -> None:
    """Run the command line. An error of ours is one line on stderr; RAPPORT_TRACEBACK=1 adds its traceback."""
    try:
        app()
    except Exception as error:
        if not _is_ours(error) or os.environ.get(TRACEBACK_VARIABLE):
            raise
        _print_error(error)
        sys.exit(2 if isinstance(error, USER_ERRORS) else 1)


def _is_ours(error: Exception) -> bool:
    """Whether a room of ours defined the class of this error: then its message is worded for the reader."""
    return type(error).__module__.partition(".")[0] in ROOMS


def _causes(error: BaseException) -> Iterator[BaseException]:
    while error.__cause__ is not None:
        error = error.__cause__
        yield error


def _print_error(error: Exception) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    console.print(Text(f"error: {error}", style="red"), soft_wrap=True)
    if not isinstance(error, USER_ERRORS):
        for cause in _causes(error):
            console.print(Text(f"  caused by {type(cause).__name__}: {cause}"), soft_wrap=True)
        console.print(Text(f"  set {TRACEBACK_VARIABLE}=1 for the traceback"), soft_wrap=True)


if __name__ == "__main__":
    main()
