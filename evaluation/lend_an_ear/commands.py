"""`rapport evaluate lend-an-ear`: what can be checked is checked before a model or a server is started."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from evaluation.lend_an_ear.marks import Marker
    from evaluation.lend_an_ear.run import Comparison, Plan, Servers
    from evaluation.lend_an_ear.sampling import Style
    from evaluation.lend_an_ear.turns import GoldTurn

REPLICAS = 2  # a tagger and a scorer

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Gold, one folder per system, table, summary.")]
DataOption = Annotated[
    str, typer.Option(help="starter (its held-out side), a file of conversations, or a folder of released replies.")
]
TurnsOption = Annotated[int | None, typer.Option(min=1, help="The first so many supporter turns; all if absent.")]
ModeOption = Annotated[Literal["simple", "tactics", "tactics_history"], typer.Option(help="Which system prompt.")]
CandidatesOption = Annotated[
    int, typer.Option(min=0, max=10, help="Verbalised sampling: so many candidates a turn; 0 for a plain reply.")
]
NameOption = Annotated[str | None, typer.Option(help="The system's folder; made of model and mode if absent.")]
JudgeOption = Annotated[
    str | None, typer.Option(metavar="URL/NAME", help=f"{JUDGE_HELP} Without one the scorer rates.")
]
BaselineOption = Annotated[str | None, typer.Option(help="System to test the others against; gold if absent.")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, max=5.0, help="0 is greedy.")]
TokensOption = Annotated[int | None, typer.Option(min=1, help="Longest answer; 400 for each candidate if absent.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of sampling, draws and bootstrap.")]
ResamplesOption = Annotated[int, typer.Option(min=100, max=50_000, help="Bootstrap resamples.")]
ThinkingOption = Annotated[
    bool | None, typer.Option("--thinking/--no-thinking", help="For models that can; else as their template does.")
]
ServersOption = Annotated[
    str | None, typer.Option(metavar="URL", help="Reward servers that run already; else they are started here.")
]
ServersTokenOption = Annotated[str, typer.Option(envvar="RAPPORT_SERVERS_TOKEN", help="Bearer token of --servers.")]


def lend_an_ear_command(
    model: ModelArgument,
    out: OutOption,
    data: DataOption = "starter",
    turns: TurnsOption = None,
    mode: ModeOption = "simple",
    candidates: CandidatesOption = 0,
    name: NameOption = None,
    judge: JudgeOption = None,
    baseline: BaselineOption = None,
    temperature: TemperatureOption = 0.7,
    max_tokens: TokensOption = None,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 10_000,
    engine: EngineOption = "vllm",
    thinking: ThinkingOption = None,
    token: TokenOption = "",
    judge_token: JudgeTokenOption = "",
    judge_calls_per_minute: JudgePaceOption = None,
    judge_concurrency: JudgeConcurrencyOption = USUAL_CONCURRENCY,
    judge_max_tokens: JudgeTokensOption = None,
    servers: ServersOption = None,
    servers_token: ServersTokenOption = "",
) -> None:
    """Sample a model's supporter turns on people's histories, tag and rate them, and compare with the people's turns.

    Ratings are those of Rapport's own scorer, or of a judge under Rapport's
    rubric, never of the paper's judge. A run that was stopped goes on where it
    was. Further systems in the same --out are compared with those before.

    rapport evaluate lend-an-ear smollm2-135m --turns 20 --out ear

    rapport evaluate lend-an-ear smollm2-135m --turns 20 --out ear --mode tactics_history --baseline smollm2-135m-simple
    """
    from dialogue.prompts import PromptMode
    from evaluation.lend_an_ear.judge import SAMPLING
    from evaluation.lend_an_ear.layout import check_name, check_out, check_system
    from evaluation.lend_an_ear.run import Plan, compare, run_chain
    from evaluation.lend_an_ear.sampling import Style
    from evaluation.lend_an_ear.turns import read_turns
    from evaluation.replies import Sampling

    asked = read_turns(data, turns)
    style = Style(PromptMode(mode), candidates)
    system = check_name(name or _name_of(model, style))
    check_out(out, asked)
    _check_baseline(baseline, system, out)
    choice = model_choice(model, token, engine, thinking=thinking)
    check_system(out / system, choice.address, style)
    sampling = Sampling(max_tokens or style.usual_tokens, temperature, seed)
    judged = judge_choice(judge, judge_token, judge_calls_per_minute, judge_concurrency) if judge else None
    plan = Plan(out, system, model, choice, style, sampling, judged, SAMPLING.at_most(judge_max_tokens))
    with ExitStack() as on_exit:
        reward_servers = _servers(servers, servers_token, on_exit)
        with progress() as on_progress:
            rater = run_chain(plan, asked, reward_servers, on_progress)
    _show(compare(out, rater, baseline, resamples, seed), plan, asked)


def _name_of(model: str, style: Style) -> str:
    """`http://host/v1/org/Name` or `runs/x/hf` to a name for a folder."""
    import re

    last = re.sub(r"[^\w.+-]+", "-", model.rstrip("/").rpartition("/")[2]).strip("-.") or "model"
    return f"{last}-{style.name}"


def _check_baseline(baseline: str | None, system: str, out: Path) -> None:
    from evaluation.files import EvaluationDataError
    from evaluation.systems import REPLIES_FILE

    if baseline in (None, system, "gold") or (out / str(baseline) / REPLIES_FILE).exists():
        return
    raise EvaluationDataError(f"--baseline {baseline!r}: {out} holds no system of that name")


def _servers(url: str | None, token: str, on_exit: ExitStack) -> Servers:
    """Those at `url`, or ones that are started when the first reply is to be scored."""
    from evaluation.lend_an_ear.marks import shipped_models
    from evaluation.lend_an_ear.run import Servers

    if url is None:
        return Servers(shipped_models(), cache(lambda: _start_servers(on_exit)))
    from reward_servers.client import RewardClient

    client = RewardClient.over_http(url, token)
    versions = " ".join(f"{name} {version}" for name, version in sorted(client.health_sync().items()))
    return Servers(f"{url} {versions}", lambda: client.score_sync)


def _start_servers(on_exit: ExitStack) -> Marker:
    """The shipped tagger and scorer in a Ray cluster that lives until `on_exit` closes.

    They are up, and idle, while the model is loaded and asked on the same cores and in the same memory. A replica that
    Ray or Serve ends then is replaced, which takes some ten seconds on a quiet machine and a minute on a busy one, so
    the client waits that long.
    """
    from cluster.session import ray_session
    from reward_servers.client import RetryPolicy
    from reward_servers.serve import start_reward_servers, stop_reward_servers
    from reward_servers.service_config import ServiceConfig

    on_exit.enter_context(ray_session(parallel_actors=2 * REPLICAS + 4))
    config = ServiceConfig()
    client = start_reward_servers(config, RetryPolicy(timeout_s=120, retries=8, backoff_s=4, max_backoff_s=30))
    on_exit.callback(stop_reward_servers, config.app_name)
    return client.score_sync


def _show(comparison: Comparison, plan: Plan, turns: Sequence[GoldTurn]) -> None:
    """Print the table and what failed; write table and summaries."""
    from evaluation.files import write_json
    from evaluation.json_files import read_json_value
    from evaluation.lend_an_ear.layout import RUN_FILE
    from evaluation.lend_an_ear.summary import caution, write_summaries
    from evaluation.printing import print_systems, result_console

    rater, out = comparison.rater, plan.out
    rated = {name: {**row, "ratings_by": rater.description} for name, row in comparison.table.as_dict().items()}
    write_json(out / f"{rater.name}_table.json", rated)
    page = out / f"{rater.name}_summary.html"
    write_summaries(comparison, page.with_suffix(".md"), page)
    print_systems(comparison.table, result_console(), rater.label)
    compared = comparison.table.rows[0].turns
    typer.echo(f"{caution(comparison)}\n{compared} of {len(turns)} turns have a reply of every system")
    if plan.judge is not None:
        typer.echo(_of_judge(read_json_value(out / plan.system / RUN_FILE)["judge"]))
    for name in comparison.unrated:
        typer.echo(f"{name}: not rated by {rater.name}, so not in this table")
    typer.echo(f"{page}: open it in a browser")


def _of_judge(counts: dict[str, Any]) -> str:
    """What of the judge's answers could be used; the others are in the system's run.json."""
    return (
        f"judge: {counts['read']} answers read, {counts['unreadable']} unreadable, {counts['failed']} failed; what was "
        "not read is rated by nobody"
    )
