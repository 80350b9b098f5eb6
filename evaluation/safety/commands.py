"""`rapport evaluate safety`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evaluation.model_choice import ModelChoice
    from evaluation.safety.escalation import Outcome
    from evaluation.safety.prompt_file import PromptFile
    from evaluation.safety.report import SafetyReport


def safety_command(
    prompts_file: Annotated[
        str, typer.Argument(metavar="PROMPTS", help="Prompts by category, .json or .jsonl; own for the shipped ones.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="OUT.json", help="Counts and every finding.")],
    replies: Annotated[
        Path | None, typer.Option("--replies", metavar="FILE.jsonl", help='Judge given lines {"id", "response"}.')
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="smollm2-135m, a folder, or http://host:8000/v1.")
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

    Entries with turns are escalations: the model answers each turn, and a crisis line that comes late is counted. A
    measurement of words, not a clinical assessment: read the sheet.

    rapport evaluate safety own --model my-model --out safety.json --sheet red_team.md
    """
    from evaluation.files import EvaluationDataError, check_target, write_json
    from evaluation.json_files import read_replies
    from evaluation.lend_an_ear.commands import place_of
    from evaluation.model_choice import CACHE_FOLDER, ModelChoice
    from evaluation.safety.prompt_file import read_prompt_file
    from evaluation.safety.sheet import red_team_sheet

    if (model is None) == (replies is None):
        raise EvaluationDataError("give either --model, to ask it, or --replies, to judge a file")
    for target in (out, *([sheet] if sheet else [])):
        check_target(target)
    prompts = read_prompt_file(prompts_file)
    if replies is not None:
        report = _report(prompts, read_replies(replies), replies)
    else:
        choice = ModelChoice(place_of(model or ""), model_name, token)
        given = _ask(choice, prompts, max_tokens, cache or out.parent / CACHE_FOLDER)
        report = _report(prompts, given, choice.place)
    write_json(out, {"model": model, **report.as_dict()})
    if sheet is not None:
        sheet.write_text(red_team_sheet(report, model or str(replies)), encoding="utf-8", errors="replace")
    _print(report)


def _report(file: PromptFile, replies: Mapping[str, str | None], where: Path | str) -> SafetyReport:
    from dataclasses import replace

    from evaluation.safety.escalation import outcomes_of, prompts_of
    from evaluation.safety.over_refusal import over_refusal_of
    from evaluation.safety.report import judge_all

    report = judge_all([*file.prompts, *prompts_of(file.escalations, replies, where)], replies, where)
    outcomes = outcomes_of(file.escalations, report.judged)
    return replace(report, over_refusal=over_refusal_of(report.judged), escalations=outcomes)


def _ask(choice: ModelChoice, file: PromptFile, max_tokens: int, cache: Path) -> Mapping[str, str | None]:
    """Greedy replies by prompt id; None where the call failed."""
    from rich.console import Console

    from evaluation.model_choice import open_model
    from evaluation.replies import Question, Reply, Sampling, ask_all, require_some
    from evaluation.reply_cache import ReplyCache
    from evaluation.safety.escalation import play_escalations

    async def ask() -> Mapping[str, str | None]:
        with Console(stderr=True).status("asking") as status:

            def show(done: int, asked: int) -> None:
                status.update(f"asking: {done} of {asked}")

            async with open_model(choice) as opened:
                questions = [Question(prompt.id, prompt.messages) for prompt in file.prompts]
                results = await ask_all(opened, questions, Sampling(max_tokens), ReplyCache(cache), show)
                require_some(results, opened.identity)
                played = await play_escalations(opened, file.escalations, Sampling(max_tokens), ReplyCache(cache), show)
        return {r.question_id: r.visible if isinstance(r, Reply) else None for r in results} | played

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
    if report.over_refusal is not None:
        shares = (("turned away", report.over_refusal.turned_away), ("alarmed", report.over_refusal.alarmed))
        for what, share in shares:
            low, high = share.interval
            console.print(
                f"over-refusal: {what} {share.violated} of {share.decided} [{low:.2f}, {high:.2f}], "
                f"{share.unclear} unclear",
                highlight=False,
                markup=False,
            )
    for outcome in report.escalations:
        console.print(_line(outcome), highlight=False, markup=False)


def _line(outcome: Outcome) -> str:
    escalation = outcome.escalation
    if outcome.answered < len(escalation.turns):
        went = f"unfinished, {outcome.answered} of {len(escalation.turns)} turns answered"
    elif not escalation.danger_from:
        went = "no danger in it"
    elif outcome.delay is None:
        went = f"danger from turn {escalation.danger_from}, no crisis line was named"
    else:
        went = f"danger from turn {escalation.danger_from}, a crisis line {outcome.delay} turn(s) later"
    broken = ", ".join(map(str, outcome.violated)) or "none"
    return f"{escalation.id}: {went}; turns that break a rule: {broken}"
