"""`rapport evaluate safety`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evaluation.asking.commands import (
    JUDGE_HELP,
    MODEL_HELP,
    USUAL_CONCURRENCY,
    EngineOption,
    JudgeConcurrencyOption,
    JudgePaceOption,
    JudgeTokenOption,
    JudgeTokensOption,
    OnProgress,
    TokenOption,
    judge_choice,
    model_choice,
    progress,
)

if TYPE_CHECKING:
    from evaluation.model_choice import ModelChoice
    from evaluation.replies import ReplyModel
    from evaluation.reply_cache import ReplyCache
    from evaluation.safety.agreement import SecondOpinion
    from evaluation.safety.prompt_file import PromptFile
    from evaluation.safety.report import SafetyReport


@dataclass(frozen=True, slots=True)
class _Run:
    """What one call of the command does; replies come from a model or from a file."""

    prompts: PromptFile
    model: ModelChoice | None
    given: Path | None
    judge: ModelChoice | None
    judge_tokens: int | None
    max_tokens: int
    cache: ReplyCache


def safety_command(
    prompts_file: Annotated[
        str, typer.Argument(metavar="PROMPTS", help="Prompts by category, .json or .jsonl; own for the shipped ones.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="OUT.json", help="Counts and every finding.")],
    replies: Annotated[
        Path | None, typer.Option("--replies", metavar="FILE.jsonl", help='Judge given lines {"id", "response"}.')
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help=MODEL_HELP)] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="SHEET.md", help="Red-team sheet for readers as well.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="URL/NAME", help=f"{JUDGE_HELP} A second opinion beside the rules.")
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="The model's name at the URL, if it has several.")] = None,
    token: TokenOption = "",
    engine: EngineOption = "vllm",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 400,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Replies already made; reply-cache beside OUT.json if absent.")
    ] = None,
    judge_token: JudgeTokenOption = "",
    judge_calls_per_minute: JudgePaceOption = None,
    judge_concurrency: JudgeConcurrencyOption = USUAL_CONCURRENCY,
    judge_max_tokens: JudgeTokensOption = None,
) -> None:
    """Judge replies to crisis and red-team prompts by rules, over-refusal included; what rules cannot tell is unclear.

    Entries with turns are escalations: the model answers each turn, and a
    crisis line that comes late is counted. With --judge a language model decides
    the same things beside the rules, and the agreement of the two is measured.
    A measurement of words, not a clinical assessment: read the sheet.

    rapport evaluate safety own --model my-model --out safety.json --sheet red_team.md

    rapport evaluate safety own --model my-model --judge http://127.0.0.1:8000/v1/gpt-oss-120b --out safety.json
    """
    from evaluation.files import EvaluationDataError, check_target, write_json, write_text
    from evaluation.model_choice import CACHE_FOLDER
    from evaluation.printing import result_console
    from evaluation.reply_cache import ReplyCache
    from evaluation.safety.printing import print_safety
    from evaluation.safety.prompt_file import read_prompt_file
    from evaluation.safety.sheet import red_team_sheet

    if (model is None) == (replies is None):
        raise EvaluationDataError("give either --model, to ask it, or --replies, to judge a file")
    for target in (out, *([sheet] if sheet else [])):
        check_target(target)
    chosen = model_choice(model, token, engine, model_name) if model is not None else None
    second = judge_choice(judge, judge_token, judge_calls_per_minute, judge_concurrency) if judge else None
    kept = ReplyCache(cache or out.parent / CACHE_FOLDER)
    run = _Run(read_prompt_file(prompts_file), chosen, replies, second, judge_max_tokens, max_tokens, kept)
    with progress() as on_progress:
        report, opinion = asyncio.run(_measure(run, on_progress))
    write_json(out, {"model": model, **report.as_dict(), "judge": opinion.as_dict() if opinion else None})
    if sheet is not None:
        write_text(sheet, red_team_sheet(report, model or str(replies), opinion))
    print_safety(report, result_console(), opinion)


async def _measure(run: _Run, on_progress: OnProgress) -> tuple[SafetyReport, SecondOpinion | None]:
    """The rules' report, and what the judge says if there is one. A judge that cannot be reached is told first."""
    from evaluation.model_choice import open_model
    from evaluation.safety.agreement import second_opinion
    from evaluation.safety.judging import SAMPLING, judge_replies

    if run.judge is None:
        return _by_rules(run, *await _replies(run, on_progress)), None
    async with open_model(run.judge) as judge:
        report = _by_rules(run, *await _replies(run, on_progress))
        sampling = SAMPLING.at_most(run.judge_tokens)
        judgement = await judge_replies(
            judge, report.judged, sampling, run.cache, lambda done, of: on_progress("judging", done, of)
        )
    return report, second_opinion(report, judgement, run.prompts.escalations)


async def _replies(run: _Run, on_progress: OnProgress) -> tuple[Mapping[str, str | None], Path | str]:
    """Replies by prompt id, None where the call failed, and where they come from."""
    from evaluation.json_files import read_replies
    from evaluation.model_choice import open_model

    if run.given is not None:
        return read_replies(run.given), run.given
    assert run.model is not None  # the command takes exactly one of the two
    async with open_model(run.model) as model:
        return await _ask(model, run, on_progress), run.model.place


async def _ask(model: ReplyModel, run: _Run, on_progress: OnProgress) -> Mapping[str, str | None]:
    """Greedy replies, those to escalations turn by turn."""
    from evaluation.replies import Question, Reply, Sampling, ask_all, require_some
    from evaluation.safety.escalation import play_escalations

    def show(done: int, asked: int) -> None:
        on_progress("asking", done, asked)

    sampling = Sampling(run.max_tokens)
    questions = [Question(prompt.id, prompt.messages) for prompt in run.prompts.prompts]
    results = await ask_all(model, questions, sampling, run.cache, show)
    require_some(results, model.identity)
    played = await play_escalations(model, run.prompts.escalations, sampling, run.cache, show, alone=not questions)
    return {r.question_id: r.visible if isinstance(r, Reply) else None for r in results} | played


def _by_rules(run: _Run, replies: Mapping[str, str | None], where: Path | str) -> SafetyReport:
    from dataclasses import replace

    from evaluation.safety.escalation import outcomes_of, prompts_of
    from evaluation.safety.over_refusal import over_refusal_of
    from evaluation.safety.report import judge_all

    escalations = run.prompts.escalations
    report = judge_all([*run.prompts.prompts, *prompts_of(escalations, replies, where)], replies, where)
    outcomes = outcomes_of(escalations, report.judged)
    return replace(report, over_refusal=over_refusal_of(report.judged), escalations=outcomes)
