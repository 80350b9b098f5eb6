"""`rapport evaluate eq-bench`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evaluation.asking.commands import MODEL_HELP, EngineOption, TokenOption, model_choice, progress

if TYPE_CHECKING:
    from evaluation.eq_bench.questions import EqQuestion
    from evaluation.eq_bench.run import EqReplies, EqReport
    from evaluation.model_choice import ModelChoice


def eq_bench_command(
    questions_file: Annotated[
        Path, typer.Argument(metavar="QUESTIONS", help="eq_bench_v2_questions_171.json of the authors.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="OUT.json", help="Score, passes and every reply.")],
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help=MODEL_HELP)] = None,
    answers: Annotated[
        Path | None, typer.Option("--answers", metavar="FILE.jsonl", help='Score given lines {"id", "response"} alone.')
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="The model's name at the URL, if it has several.")] = None,
    token: TokenOption = "",
    engine: EngineOption = "vllm",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 1000,
    attempts: Annotated[int, typer.Option(min=1, max=20, help="Calls for a question that does not parse.")] = 5,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Replies already made; reply-cache beside OUT.json if absent.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, max=50_000, help="Bootstrap resamples.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling and bootstrap.")] = 0,
) -> None:
    """EQ-Bench v2: how well a model predicts what the people of 171 dialogues feel; 100 is perfect, random about 0.

    A run that was interrupted goes on where it was: the replies are in the cache.

    rapport evaluate eq-bench eq_bench_v2_questions_171.json --model smollm2-135m --out eq.json
    """
    from evaluation.eq_bench.questions import read_questions
    from evaluation.eq_bench.run import given, report_of
    from evaluation.files import EvaluationDataError, check_target, write_json
    from evaluation.json_files import read_replies
    from evaluation.model_choice import CACHE_FOLDER

    if (model is None) == (answers is None):
        raise EvaluationDataError("give either --model, to ask it, or --answers, to score a file")
    check_target(out)
    questions = read_questions(questions_file)
    if answers is not None:
        replies = given(read_replies(answers), questions, answers)
    else:
        choice = model_choice(model or "", token, engine, model_name)
        replies = _ask(choice, questions, (max_tokens, seed, attempts), cache or out.parent / CACHE_FOLDER)
    report = report_of(questions, replies, resamples, seed)
    write_json(out, {"model": model, **report.as_dict()})
    _print(report)


def _ask(choice: ModelChoice, questions: list[EqQuestion], bounds: tuple[int, int, int], cache: Path) -> EqReplies:
    from evaluation.eq_bench.run import collect
    from evaluation.model_choice import open_model
    from evaluation.replies import Sampling
    from evaluation.reply_cache import ReplyCache

    max_tokens, seed, attempts = bounds

    async def ask() -> EqReplies:
        sampling = Sampling(max_tokens, seed=seed)
        with progress("loading the model") as show:
            async with open_model(choice) as opened:
                return await collect(opened, questions, sampling, attempts, ReplyCache(cache), show)

    return asyncio.run(ask())


def _print(report: EqReport) -> None:
    from evaluation.eq_bench.parsing import Reading

    result, lenient = report.result, report.results[Reading.LENIENT]
    counted = (
        f"{result.passes[result.final].parseable} of {result.questions} parse, {report.unanswered} without a reply"
    )
    if result.score is None:
        typer.echo(f"EQ-Bench v2: failed, no score; {counted}; at least 83.33 % must parse")
    else:
        low, high = result.interval
        typer.echo(f"EQ-Bench v2: {result.score:.2f} [{low:.2f}, {high:.2f}], {result.final} pass; {counted}")
    loose = "failed" if lenient.score is None else f"{lenient.score:.2f}"
    typer.echo(f"read leniently, not comparable with others' scores: {loose}")
