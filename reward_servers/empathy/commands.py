"""`rapport score`, and `rapport scorer` with the commands of the turn scorers among its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer
from rich.console import Console
from rich.markup import escape

from dialogue.conversation import Message
from reward_servers.progress import shown_progress
from reward_servers.protocol import ScoreRequest
from reward_servers.turn_scorers.commands import (
    eval_command,
    label_command,
    pretrain_command,
    train_command,
    trust_command,
)

if TYPE_CHECKING:
    from reward_servers.empathy.scorer import EmpathyScorer

app = typer.Typer(help="Train empathy scorers, measure them, and see which to trust.", no_args_is_help=True)
app.command("label")(label_command)
app.command("pretrain")(pretrain_command)
app.command("train")(train_command)
app.command("eval")(eval_command)
app.command("trust")(trust_command)
_console = Console(stderr=True)

OutOption = Annotated[Path, typer.Option("--out", help="Where to write the scored lines.")]
WeightsOption = Annotated[Path | None, typer.Option("--weights", help="Folder of a scorer; the shipped one if absent.")]
DataOption = Annotated[Path, typer.Option("--data", help="MINT folder, the one that holds outputs/.")]


class LineError(ValueError):
    """A line of the input that cannot be scored. The message names file, line and what is wrong."""


@dataclass(frozen=True, slots=True)
class _Line:
    content: dict[str, Any]
    request: ScoreRequest


def score(
    in_path: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="One JSON object a line: history, response.")],
    out_path: OutOption,
    weights: WeightsOption = None,
) -> None:
    """Add `empathy`, six dimensions and aggregated_empathy, to every line {"history": [...], "response": "..."}."""
    _check_target(in_path, out_path)
    from reward_servers.empathy.scorer import EmpathyScorer, ScorerWeightsError
    from reward_servers.encoder import EncoderNotFoundError

    try:
        total = sum(1 for _ in _lines(in_path))
        count = score_file(EmpathyScorer.load(weights), in_path, out_path, total)
    except (LineError, ScorerWeightsError, EncoderNotFoundError, OSError, UnicodeDecodeError) as error:
        _fail(str(error))
    _console.print(f"scored {count} replies -> {out_path}")


def _check_target(source: Path, target: Path) -> None:
    """Before the scorer is loaded and the work is done."""
    if not target.parent.is_dir():
        _fail(f"{target}: cannot write there (no such folder)")
    if not os.access(target.parent, os.W_OK):
        _fail(f"{target}: cannot write there (no permission)")
    if target.is_dir():
        _fail(f"{target}: it is a folder; give the name of a file in it")
    if target.exists() and source.exists() and target.samefile(source):
        _fail(f"{target}: the output would overwrite the input; choose another name")


def score_file(scorer: EmpathyScorer, in_path: Path, out_path: Path, total: int) -> int:
    """Score `in_path` line by line into `out_path`, which appears only when it is complete.

    Args:
        total: number of lines, for the progress bar.

    Returns:
        How many lines were written.

    Raises:
        LineError: a line cannot be scored; nothing is left at `out_path` that was not there before.
    """
    part = out_path.with_name(f".{out_path.name}.part{os.getpid()}")
    count = 0
    try:
        with part.open("w", encoding="utf-8") as out, shown_progress("scoring", _console) as told:
            for line in _lines(in_path):
                _write(scorer, line, out)
                count += 1
                told(count, total)
        part.replace(out_path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _write(scorer: EmpathyScorer, line: _Line, out: TextIO) -> None:
    result = scorer.score([line.request])[0]
    empathy = {**result.as_dict(), "aggregated_empathy": result.aggregated}
    out.write(json.dumps({**line.content, "empathy": empathy}, ensure_ascii=False) + "\n")


def _lines(path: Path) -> Iterator[_Line]:
    """The checked lines of a file; blank ones are left out."""
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                yield _checked(text, f"{path}, line {number}")


def _checked(text: str, where: str) -> _Line:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise LineError(f"{where}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise LineError(f'{where}: expected an object with "history" and "response", got {type(content).__name__}')
    response = content.get("response")
    if not isinstance(response, str):
        raise LineError(f'{where}: "response" has to be a string, got {response!r:.60}')
    return _Line(content, ScoreRequest(where, _history(content.get("history"), where), response))


def _history(value: object, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise LineError(f'{where}: "history" has to be a list of messages that is not empty, got {value!r:.60}')
    for number, message in enumerate(value):
        fits = isinstance(message, dict) and message.get("role") in ("user", "assistant", "system")
        if not fits or not isinstance(message.get("content"), str):
            raise LineError(
                f"{where}: history[{number}] has to be {{"
                '"role": "user" or "assistant" or "system", "content": string}, '
                f"got {message!r:.80}"
            )
    messages = [Message(role=m["role"], content=m["content"]) for m in value if m["role"] != "system"]
    if not messages or messages[-1]["role"] != "user":
        raise LineError(f'{where}: the last message of "history" has to be the user\'s, the one the response answers')
    return tuple(messages)


@app.command("distill")
def distill_command(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the weights; those in it are replaced.")],
    cache: Annotated[Path, typer.Option("--cache", help="Where encoder states and babble are kept.")] = Path(
        "runs/cache/scorer"
    ),
    seed: Annotated[int, typer.Option(help="Seed of probes and heads.")] = 0,
) -> None:
    """Train the shipped scorer of six dimensions on a judge's ratings, held-out conversations left out.

    A run that was stopped goes on with the encoder states and texts in its cache; the rest takes minutes.
    """
    from reward_servers.empathy.babble import BabbleModelMissingError
    from reward_servers.empathy.data import RatingsError
    from reward_servers.empathy.recipe import train_scorer
    from reward_servers.encoder import EncoderNotFoundError

    try:
        out.mkdir(parents=True, exist_ok=True)
        losses = train_scorer(data, out, cache, seed)
    except (RatingsError, BabbleModelMissingError, EncoderNotFoundError, OSError) as error:
        _fail(str(error))
    _console.print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} epochs; weights in {out}")


@app.command("check")
def check_command(data: DataOption, weights: WeightsOption = None) -> None:
    """The shipped scorer on held-out conversations: agreement with the judge, and how cheating replies rank."""
    from reward_servers.empathy.data import RatingsError
    from reward_servers.empathy.recipe import evaluate_scorer
    from reward_servers.empathy.scorer import EmpathyScorer, ScorerWeightsError
    from reward_servers.encoder import EncoderNotFoundError

    try:
        scorer = EmpathyScorer.load(weights)
        with shown_progress("held-out replies", _console) as told:
            report = evaluate_scorer(scorer, data, lambda n, of: told(n, of))
    except (RatingsError, ScorerWeightsError, EncoderNotFoundError, OSError) as error:
        _fail(str(error))
    Console().print(report.table())


def _fail(message: str) -> NoReturn:
    _console.print(f"[red]error:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(2)
