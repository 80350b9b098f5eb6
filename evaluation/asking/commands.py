"""What the commands that ask a model share: their options, and what MODEL and --judge stand for on a command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from evaluation.model_choice import ModelChoice

OnProgress = Callable[[str, int, int], None]  # what is done, how many of them, of how many

MODEL_HELP = "smollm2-135m, a Hugging Face folder or hub id, or http://host:8000/v1/name."
TokenOption = Annotated[str, typer.Option(envvar="RAPPORT_MODEL_TOKEN", help="Bearer token of the model's URL.")]
EngineOption = Annotated[
    Literal["vllm", "transformers"], typer.Option(help="What runs a local model; transformers: one question at a time.")
]
JUDGE_HELP = "A judge, such as http://host:8000/v1/gpt-oss, or a local model, which vLLM runs."
JudgeTokenOption = Annotated[str, typer.Option(envvar="RAPPORT_JUDGE_TOKEN", help="Bearer token of the judge.")]
JudgePaceOption = Annotated[
    float | None, typer.Option("--judge-calls-per-minute", help="Limit of the judge's endpoint; none if absent.")
]
JudgeConcurrencyOption = Annotated[int, typer.Option(min=1, help="Calls of the judge's endpoint in flight at once.")]
JudgeTokensOption = Annotated[
    int | None,
    typer.Option(
        "--judge-max-tokens",
        min=1,
        help="Longest answer of the judge, thinking included. A server refuses more than its context takes.",
    ),
]
USUAL_CONCURRENCY = 16


def model_choice(
    model: str, token: str = "", engine: str = "vllm", name: str | None = None, thinking: bool | None = None
) -> ModelChoice:
    """A model behind a URL, or whatever `rl.models.resolve_model` finds; errors as that.

    Args:
        name: the model's name at the URL, if that is not a part of `model`.
    """
    from dataclasses import replace

    from evaluation.model_choice import Engine, ModelChoice, endpoint_choice

    if "://" in model:
        chosen = endpoint_choice(model, token)
        return replace(chosen, name=name or chosen.name, thinking=thinking)
    from rl.models import resolve_model

    return ModelChoice(str(resolve_model(model)), engine=Engine(engine), thinking=thinking)


def judge_choice(
    judge: str, token: str = "", calls_per_minute: float | None = None, concurrency: int = USUAL_CONCURRENCY
) -> ModelChoice:
    """As `model_choice`, within the limits of the judge's endpoint.

    Raises:
        EvaluationDataError: `calls_per_minute` is not above 0.
    """
    from dataclasses import replace

    from evaluation.judge.pace import Pace

    if calls_per_minute is not None:
        Pace(calls_per_minute)
    return replace(model_choice(judge, token), calls_per_minute=calls_per_minute, concurrency=concurrency)


@contextmanager
def progress(first: str = "reading") -> Iterator[OnProgress]:
    """Shows on a terminal what is done and how far it is; yields the function to tell it."""
    from rich.console import Console

    with Console(stderr=True).status(first) as status:
        yield lambda what, done, of: status.update(f"{what}: {done} of {of}")
