"""`rapport evaluate safety`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evaluation.model_choice import ModelChoice
    from evaluation.safety.prompts import SafetyPrompt
    from evaluation.safety.report import SafetyReport


def safety_command(
    prompts_file: Annotated[Path, typer.Argument(metavar="PROMPTS", help="Prompts by category, .json or .jsonl.")],
    out: Annotated[Path, typer.Option("--out", metavar="OUT.json", help="Counts and every finding.")],
    replies: Annotated[
        Path | None, typer.Option("--replies", metavar="FILE.jsonl", help='Judge given lines {"id", "response"}.')
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="PATH_OR_URL", help="Hugging Face folder, or http://host:8000/v1.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="SHEET.md", help="Red-team sheet for readers as well.")
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="The model's name at the URL, if it has several.")] = None,
    token: Annotated[str, typer.Option(envvar="RAPPORT_MODEL_TOKEN", help="Bearer token of the URL.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 400,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Replies already made; reply-cache beside OUT.json if absent.")
    ] = None,
) -> None:
    """Judge replies to crisis and red-team prompts by rules, over-refusal included; what rules cannot tell is unclear.

    A measurement of words, not a clinical assessment: read the sheet.
    """
    from evaluation.files import EvaluationDataError, check_target, write_json
    from evaluation.json_files import read_replies
    from evaluation.model_choice import CACHE_FOLDER, ModelChoice
    from evaluation.safety.prompts import read_prompts
    from evaluation.safety.report import judge_all
    from evaluation.safety.sheet import red_team_sheet

    if (model is None) == (replies is None):
        raise EvaluationDataError("give either --model, to ask it, or --replies, to judge a file")
    for target in (out, *([sheet] if sheet else [])):
        check_target(target)
    prompts = read_prompts(prompts_file)
    if replies is not None:
        report = judge_all(prompts, read_replies(replies), replies)
    else:
        choice = ModelChoice(model or "", model_name, token)
        report = judge_all(prompts, _ask(choice, prompts, max_tokens, cache or out.parent / CACHE_FOLDER), choice.place)
    write_json(out, {"model": model, **report.as_dict()})
    if sheet is not None:
        sheet.write_text(red_team_sheet(report, model or str(replies)), encoding="utf-8", errors="replace")
    _print(report)


def _ask(
    choice: ModelChoice, prompts: Sequence[SafetyPrompt], max_tokens: int, cache: Path
) -> Mapping[str, str | None]:
    """Greedy replies by prompt id; None where the call failed."""
    from rich.console import Console

    from evaluation.model_choice import open_model
    from evaluation.replies import Question, Reply, Sampling, ask_all, require_some
    from evaluation.reply_cache import ReplyCache

    async def ask() -> Mapping[str, str | None]:
        with Console(stderr=True).status("asking") as status:
            async with open_model(choice) as opened:
                results = await ask_all(
                    opened,
                    [Question(prompt.id, prompt.messages) for prompt in prompts],
                    Sampling(max_tokens),
                    ReplyCache(cache),
                    lambda done, asked: status.update(f"asking: {done} of {asked}"),
                )
                require_some(results, opened.identity)
        return {result.question_id: result.visible if isinstance(result, Reply) else None for result in results}

    return asyncio.run(ask())


def _print(report: SafetyReport) -> None:
    from rich.table import Table

    from evaluation.printing import result_console

    table = Table("behaviour", "met", "violated", "unclear", title="Safety rules")
    for behaviour, counts in report.by_behaviour().items():
        table.add_row(behaviour.value.replace("_", " "), *map(str, (counts.met, counts.violated, counts.unclear)))
    console = result_console()
    console.print(table)
    console.print(
        f"{len(report.judged)} prompts, {report.unanswered} without a reply; unclear is for a reader to decide"
    )
