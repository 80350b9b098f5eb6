"""`rapport judge calibrate`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from evaluation.judge.calibration import Calibration, Floors
    from evaluation.judge.judging import Judgement
    from evaluation.judge.scorer import JudgeSettings
    from evaluation.replies import OnReply

app = typer.Typer(no_args_is_help=True, help="An LLM as judge of empathy: may it be trusted?")


@app.callback()
def judge() -> None:
    """An LLM as judge of empathy: may it be trusted?"""


@app.command("calibrate")
def calibrate_command(
    url: Annotated[str, typer.Option("--judge", metavar="URL", help="OpenAI-compatible: http://host:8000/v1.")],
    ratings: Annotated[
        list[Path], typer.Option("--ratings", metavar="FILE", help="An expert's ratings, .csv or .jsonl; repeatable.")
    ],
    conversations: Annotated[
        Path, typer.Option("--conversations", metavar="FILE", help="The rated conversations, .csv, .json or .jsonl.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="OUT.json", help="All figures, and whether it passed.")],
    judge_name: Annotated[str | None, typer.Option(help="The model's name at the URL, if it has several.")] = None,
    token: Annotated[str, typer.Option(envvar="RAPPORT_MODEL_TOKEN", help="Bearer token of the URL.")] = "",
    calls_per_minute: Annotated[float, typer.Option(min=0, help="Limit of the endpoint, retries counted.")] = 60,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls in flight at once.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, thinking included.")] = 1000,
    temperature: Annotated[float, typer.Option(min=0, help="As it will be when the judge is used.")] = 0.0,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Answers; reply-cache beside OUT.json.")] = None,
    floor_kappa: Annotated[float, typer.Option(help="Lowest mean weighted kappa with the experts.")] = 0.4,
    floor_spearman: Annotated[float, typer.Option(help="Lowest mean Spearman's rho with the experts.")] = 0.4,
    floor_retest: Annotated[float, typer.Option(help="Lowest mean kappa of the judge with itself.")] = 0.6,
    max_shift: Annotated[float, typer.Option(help="Largest shift by the order of the dimensions, in points.")] = 0.5,
    allow_below_floor: Annotated[bool, typer.Option("--allow-below-floor", help="Let it score all the same.")] = False,
    resamples: Annotated[int, typer.Option(min=100, max=50_000, help="Bootstrap resamples.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
) -> None:
    """Compare an LLM judge with experts, before it trains a policy or measures one.

    Each conversation is judged three times: as it is used, once more with
    another seed (test-retest), and with the dimensions in reversed order
    (position bias). Exit 2 if a floor is missed; the figures are written first.
    A judge below a floor scores nothing, unless --allow-below-floor was given:
    that is written with its figures. A run that was stopped asks only for what
    its cache lacks.

    \b
    rapport judge calibrate --judge http://127.0.0.1:8000/v1 \\
      --conversations lend_an_ear_50_conversations.csv \\
      --ratings expert1_ratings.csv --ratings expert2_ratings.csv \\
      --out calibration.json

    \b
    A judge that passed may score replies: `rapport serve` with
      scorer: {loader: "evaluation.judge.scorer:JudgeScorer", folder: FOLDER}
    where FOLDER holds OUT.json under the name calibration.json.

    \b
    Ratings have conversation_id and the six dimensions, from 1 to 5:
    validating_emotions, encouraging_elaboration, demonstrating_understanding,
    advice_giving, self_oriented, dismissing_emotions.
    """
    from evaluation.judge.calibration import Floors, JudgeBelowFloorError
    from evaluation.judge.scorer import JudgeSettings

    settings = JudgeSettings(url, judge_name or "", temperature, max_tokens, calls_per_minute, concurrency)
    floors = Floors(floor_kappa, floor_spearman, floor_retest, max_shift)
    files = (ratings, conversations, out)
    problems = _calibrate(settings, token, cache, files, floors, resamples, seed, allow_below_floor)
    if problems and not allow_below_floor:
        raise JudgeBelowFloorError(
            f"this judge must not train a policy: {'; '.join(problems)}. --allow-below-floor lets it all the same"
        )


def _calibrate(
    settings: JudgeSettings,
    token: str,
    cache: Path | None,
    files: tuple[list[Path], Path, Path],
    floors: Floors,
    resamples: int,
    seed: int,
    allowed: bool,
) -> tuple[str, ...]:
    """Read, ask, compare, write and print; the floors that were missed."""
    from evaluation.files import check_target
    from evaluation.judge.calibration import calibrate, check_number
    from evaluation.judge.files import read_experts, read_texts
    from evaluation.model_choice import CACHE_FOLDER

    ratings, conversations, out = files
    check_target(out)
    texts = read_texts(conversations)
    experts, names = read_experts(ratings, texts)
    check_number(names)
    asked = {name: texts[name] for name in names}
    settings, passes = asyncio.run(_ask(settings, token, cache or out.parent / CACHE_FOLDER, asked))
    result = calibrate(experts, names, passes, floors, resamples, seed)
    _report(settings, result, out, allowed and bool(result.problems))
    return result.problems


def _report(settings: JudgeSettings, result: Calibration, out: Path, allowed: bool) -> None:
    from evaluation.files import write_json
    from evaluation.judge.printing import print_calibration
    from evaluation.printing import result_console

    write_json(out, {"judge": asdict(settings), "allowed_below_floor": allowed, **result.as_dict()})
    print_calibration(result, result_console())


async def _ask(
    settings: JudgeSettings, token: str, cache: Path, texts: Mapping[str, str]
) -> tuple[JudgeSettings, tuple[Judgement, Judgement, Judgement]]:
    """The settings with the model's name, and the three passes; all of them keep to one limit of calls."""
    from rich.console import Console

    from evaluation.chat_endpoint import open_endpoint
    from evaluation.judge.judging import judge_conversations
    from evaluation.judge.pace import Pace
    from evaluation.judge.rubric import IN_ORDER, REVERSED
    from evaluation.replies import Sampling
    from evaluation.reply_cache import ReplyCache

    pace, replies, judged = Pace(settings.calls_per_minute), ReplyCache(cache), []
    console = Console(stderr=True)
    with console.status("judging") as status:
        async with open_endpoint(settings.url, settings.name or None, token, settings.policy(), pace) as model:
            for number, (order, seed) in enumerate(((IN_ORDER, 0), (IN_ORDER, 1), (REVERSED, 0)), start=1):
                sampling = Sampling(settings.max_tokens, settings.temperature, seed)
                on_reply = _telling(console, status, number)
                judged.append(await judge_conversations(model, texts, sampling, order, replies, on_reply))
            return replace(settings, name=model.name), (judged[0], judged[1], judged[2])


def _telling(console: Console, status: Status, number: int) -> OnReply:
    """On a terminal a line that changes; elsewhere one more at every tenth."""
    tenths: set[int] = set()

    def tell(done: int, asked: int) -> None:
        said, tenth = f"judging, pass {number} of 3: {done} of {asked}", 10 * done // asked
        status.update(said)
        if not console.is_terminal and tenth not in tenths:
            tenths.add(tenth)
            console.print(said, highlight=False)

    return tell
