"""`rapport chat` and `rapport sft safety-check`. Heavy modules are imported when a command runs."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from sft.chat.hidden import ReflectionMode
from sft.chat.memory import MemoryMode


def chat(
    model: Annotated[
        str,
        typer.Argument(help="The folder of a run of `rapport sft train`, a Hugging Face folder, or smollm2-135m."),
    ],
    once: Annotated[str | None, typer.Option("--once", metavar="TEXT", help="Answer this one turn and end.")] = None,
    locale: Annotated[
        str | None, typer.Option(help="Whose crisis lines are offered: en-US, en-GB, de-DE, ...", show_default=False)
    ] = None,
    resources: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Your own crisis lines, over the shipped ones.")
    ] = None,
    tone: Annotated[str, typer.Option(help="warm, calm, gentle, hopeful, playful or none.")] = "warm",
    persona: Annotated[
        str, typer.Option(help="best friend, good listener, older sibling, peer or none.")
    ] = "best friend",
    reflection: Annotated[ReflectionMode, typer.Option(help="The hidden line.")] = ReflectionMode.INSTRUCTION,
    memory: Annotated[MemoryMode, typer.Option(help="What of earlier turns is in the prompt.")] = MemoryMode.SUMMARY,
    show_reflection: Annotated[
        bool, typer.Option("--show-reflection", help="Print what is hidden; for developers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each reply.")] = False,
    seed: Annotated[int, typer.Option(help="Decides what is drawn.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest text of the model.")] = 128,
) -> None:
    """Talk with a model. A research artifact: not therapy, and no crisis service.

    If a turn tells of self-harm, a wish to die or danger, crisis lines for the locale are in the reply. Without a
    terminal, each line of standard input is a turn:

    echo "Nobody came to my birthday." | rapport chat smollm2-135m --locale en-GB --json
    """
    from sft.chat.style import parse_style

    style = parse_style(tone, persona)
    if once is not None and not once.strip():
        raise typer.BadParameter("the turn is empty: write something to be answered", param_hint="--once")
    from sft.base import be_quiet
    from sft.chat.companion import ChatOptions, Companion
    from sft.chat.loop import Printing, run_script, run_terminal
    from sft.predict import Sampling

    be_quiet()
    sampling = Sampling(max_new_tokens, temperature, 0.9 if temperature > 0 else 1.0)
    companion = Companion.load(model, ChatOptions(locale, resources, style, reflection, memory, sampling, seed))
    printing = Printing(as_json, show_reflection)
    try:
        if once is not None:
            run_script(companion, [once], printing)
        elif sys.stdin.isatty():
            run_terminal(companion, printing)
        else:
            if isinstance(sys.stdin, TextIOWrapper):
                sys.stdin.reconfigure(errors="replace")  # a byte that is no text leaves no turn unanswered
            run_script(companion, sys.stdin, printing)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def safety_check(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="The folder that holds safety/, esconv/, ...")],
    everyday: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most N everyday turns of each half; all by default.")
    ] = None,
    show_alarms: Annotated[bool, typer.Option("--alarms", help="Print every alarm on everyday talk.")] = False,
) -> None:
    """Measure the crisis detector: recall on crisis prompts, and alarms on everyday sad talk.

    A hash of a prompt's or conversation's name puts it into one of two halves. The rules were written with one half in
    view; the other is what counts.

    rapport sft safety-check --data data
    """
    from sft.chat.safety_check import measure
    from sft.chat.safety_report import print_check

    print_check(measure(data, everyday), show_alarms)
