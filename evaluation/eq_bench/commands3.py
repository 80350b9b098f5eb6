"""`rapport evaluate eq-bench3`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
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
    TokenOption,
    judge_choice,
    model_choice,
    progress,
)

if TYPE_CHECKING:
    from evaluation.eq_bench.scenarios import Bench
    from evaluation.eq_bench.standings import Standings
    from evaluation.model_choice import ModelChoice
    from evaluation.replies import Sampling


@dataclass(frozen=True, slots=True)
class _Run:
    """What one call of the command does."""

    out: Path
    name: str
    model: ModelChoice
    judge: ModelChoice
    bench: Bench
    sampling: Sampling
    anchors: Mapping[str, float]
    judge_tokens: int | None


def eq_bench3_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    judge: Annotated[str, typer.Option(metavar="URL/NAME", help=JUDGE_HELP)],
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="The authors' data folder.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Runs of all models, and their standings.")],
    name: Annotated[str | None, typer.Option(help="What to call the model; its last part if absent.")] = None,
    scenarios: Annotated[
        int | None, typer.Option(min=1, help="The first so many scenarios; all if absent. For a trial.")
    ] = None,
    anchor: Annotated[
        list[str] | None, typer.Option(metavar="NAME=ELO", help="Twice: two models and the ratings they are to have.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 12_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling.")] = 0,
    engine: EngineOption = "vllm",
    token: TokenOption = "",
    judge_token: JudgeTokenOption = "",
    judge_calls_per_minute: JudgePaceOption = None,
    judge_concurrency: JudgeConcurrencyOption = USUAL_CONCURRENCY,
    judge_max_tokens: JudgeTokensOption = None,
) -> None:
    """EQ-Bench 3: a model plays scenarios; a judge marks them, and compares them with those of earlier models.

    Models in one --out are rated together, each pair twice with either standing
    first; the first alone has a rating too. A run that was stopped goes on where
    it was. Data: github.com/EQ-bench/eqbench3, folder data.

    rapport evaluate eq-bench3 my-model --judge http://127.0.0.1:8000/v1/gpt-oss-120b --data eqbench3/data --out eq3
    """
    from dataclasses import replace

    from evaluation.eq_bench.scenarios import read_bench
    from evaluation.eq_bench.standings import check_model, read_models
    from evaluation.files import check_target
    from evaluation.lend_an_ear.layout import check_name
    from evaluation.replies import Sampling

    bench = read_bench(data)
    if scenarios is not None:
        bench = replace(bench, scenarios=bench.scenarios[:scenarios])
    called = check_name(name or model.rstrip("/").rpartition("/")[2])
    check_target(out / "standings.json" if out.is_dir() else out)
    anchors = _anchors(anchor or [], {*read_models(out), called})
    chosen = model_choice(model, token, engine)
    check_model(out, called, chosen.address)
    judged_by = judge_choice(judge, judge_token, judge_calls_per_minute, judge_concurrency)
    run = _Run(out, called, chosen, judged_by, bench, Sampling(max_tokens, seed=seed), anchors, judge_max_tokens)
    _print(asyncio.run(_play_and_judge(run)), run)


def _anchors(texts: Sequence[str], known: set[str]) -> dict[str, float]:
    """From NAME=ELO; none or two, and only models that there are."""
    from evaluation.files import EvaluationDataError

    anchors = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            anchors[name] = float(value)
        except ValueError as error:
            raise EvaluationDataError(f"--anchor {text!r}: expected NAME=ELO, such as my-model=1000") from error
        if name not in known:
            raise EvaluationDataError(f"--anchor {text!r}: no such model; there are {', '.join(sorted(known))}")
    if len(anchors) not in (0, 2):
        raise EvaluationDataError(f"{len(anchors)} anchor(s); a scale needs two, or none")
    return anchors


async def _play_and_judge(run: _Run) -> Standings:
    from evaluation.eq_bench.judging import compare_models, mark_tasks
    from evaluation.eq_bench.playing import play
    from evaluation.eq_bench.standings import STANDINGS_FILE, read_models, save_model, standings_of
    from evaluation.files import write_json
    from evaluation.model_choice import CACHE_FOLDER, open_model
    from evaluation.reply_cache import ReplyCache

    cache = ReplyCache(run.out / CACHE_FOLDER)
    with progress("loading the model") as show:
        async with open_model(run.model) as model:
            played = await play(model, run.bench, run.sampling, cache, show)
        async with open_model(run.judge) as judge:
            marked = await mark_tasks(judge, run.bench, played.played, cache, show, run.judge_tokens)
            kept = save_model(run.out, run.name, played, marked, judge.identity, run.model.address)
            models = read_models(run.out) | {run.name: kept}
            tasks = {name: each.played for name, each in models.items()}
            comparisons = await compare_models(judge, run.bench, tasks, cache, show, run.judge_tokens)
    standings = standings_of(models, comparisons, run.anchors)
    write_json(run.out / STANDINGS_FILE, standings.as_dict())
    return standings


def _print(standings: Standings, run: _Run) -> None:
    from rich.table import Table

    from evaluation.printing import result_console, rounded

    scale = "Elo (anchored)" if standings.anchored else "Elo (no anchors)"
    table = Table("model", "rubric", "tasks", "unreadable", "unfinished", scale, "95 %", title="EQ-Bench 3")
    for name, rating in standings.ratings.items():
        kept = standings.models[name]
        low, high = rating.interval
        counts = (kept.rubric.tasks, kept.rubric.unparseable, kept.unfinished)
        row = (name, rounded(kept.rubric.score), *map(str, counts), f"{rating.mu:.0f}", f"{low:.0f} to {high:.0f}")
        table.add_row(*row)
    console = result_console()
    console.print(table)
    console.print(
        f"{len(standings.comparisons)} comparisons in both orders, {standings.unreadable} of them unreadable; "
        f"judge {run.judge.place}. Ratings of different judges, or with other models, are not comparable.",
        highlight=False,
        markup=False,
    )
    for name in (name for name, matches in standings.played_matches.items() if not matches):
        console.print(
            f"{name} has no match yet: its rating is the one that all begin with", highlight=False, markup=False
        )
