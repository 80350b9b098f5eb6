"""`rapport scorer label`, `pretrain`, `train`, `eval` and `trust`: Baseline, STM and MVC, and which reward to trust."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from dialogue.model_answer import UnreadableAnswerError
    from evaluation.chat_endpoint import ChatEndpoint
    from evaluation.replies import OnReply
    from evaluation.reply_cache import ReplyCache
    from evaluation.trust import Rated
    from reward_servers.progress import Told
    from reward_servers.protocol import ScoreRequest
    from reward_servers.turn_scorers.augment import Candidate
    from reward_servers.turn_scorers.items import Items
    from reward_servers.turn_scorers.labels import LabelledReply
    from reward_servers.turn_scorers.opening import Opened
    from reward_servers.turn_scorers.recipe import Recipe
    from reward_servers.turn_scorers.training import Step

_TOGETHER = 512  # replies asked about before it is seen whether the model can do it
_FEWEST_JUDGED = 100  # replies after which a model that answers hardly any is given up

LabelsOption = Annotated[Path, typer.Option("--labels", metavar="FILE", help="As `rapport scorer label` wrote it.")]
EncoderOption = Annotated[str, typer.Option("--encoder", help="minilm, a folder, or a hub id such as roberta-base.")]
TunedOption = Annotated[int | None, typer.Option(min=0, help="Only so many upper layers learn; 0: none, fast.")]
PoolingOption = Annotated[Literal["first", "mean"], typer.Option(help="Of the encoder's states; published: first.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="At most so many conversations of each split.")]


class LabellingError(RuntimeError):
    """Too many replies have no label. The message says how many and why; what was answered is in the cache."""


class OptionError(ValueError):
    """Options that do not go together. The message says which."""


def label_command(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="EmpatheticDialogues: conversations.jsonl.")],
    out: Annotated[Path, typer.Option("--out", metavar="LABELS.jsonl", help="One labelled reply a line.")],
    judge: Annotated[str | None, typer.Option(metavar="URL", help="OpenAI-compatible: http://host:8000/v1.")] = None,
    formula_only: Annotated[bool, typer.Option("--formula-only", help="Labels without a language model.")] = False,
    judge_name: Annotated[str | None, typer.Option(help="The model's name at the URL, if it has several.")] = None,
    token: Annotated[str, typer.Option(envvar="RAPPORT_MODEL_TOKEN", help="Bearer token of the URL.")] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="Calls in flight at once.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, thinking included.")] = 500,
    max_missing: Annotated[float, typer.Option(min=0, max=1, help="Largest share of replies left out.")] = 0.05,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Answers; reply-cache beside LABELS.")] = None,
    limit: LimitOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the foreign replies.")] = 0,
) -> None:
    """Label listener turns of EmpatheticDialogues with empathy from 1 to 5.

    Every listener turn gives up to three replies: as it was, without its
    empathic clauses, and another conversation's. The label is
    0.2 formula + 0.3 language model + 0.5 by which of the three it is.

    \b
    rapport scorer label --data empathetic_dialogues --limit 500 \\
      --judge http://127.0.0.1:8000/v1 --out labels.jsonl

    A run that was stopped asks only for what its cache lacks. An answer that
    cannot be read leaves its reply out and is counted; a model most of whose
    answers are such ends the run early. --formula-only keeps
    the other two parts in their proportion: no model is needed, and the label
    is then nearly a code of which of the three it is.

    EmpatheticDialogues is CC BY-NC 4.0: not for commercial use.
    """
    if (judge is None) != formula_only:
        raise OptionError("give either --judge URL or --formula-only: the two make different labels")
    from evaluation.files import check_target, write_json
    from reward_servers.progress import shown_progress
    from reward_servers.turn_scorers.augment import Kind, candidates
    from reward_servers.turn_scorers.dialogues import read_listener_turns
    from reward_servers.turn_scorers.labels import write_labels

    check_target(out)
    if judge is not None:  # a wrong address is told before the data is read
        judge_name = asyncio.run(_name_of(judge, judge_name, token))
    with shown_progress("candidates") as told:
        found = candidates(read_listener_turns(data, limit), seed, told)
    items: dict[str, Items] = {}
    missing: dict[str, str] = {}
    if judge is not None:
        asked = [candidate for candidate in found if candidate.kind is not Kind.RANDOM]
        endpoint = _Endpoint(judge, judge_name, token, concurrency)
        answers = cache or out.parent / "reply-cache"
        items, missing = asyncio.run(_ask(endpoint, max_tokens, max_missing, answers, asked))
    kept = [candidate for candidate in found if candidate.id not in missing]
    replies = _labelled(kept, None if judge is None else items)
    write_labels(out, replies)
    summary = _summary(replies, missing, judge)
    write_json(out.with_suffix(".summary.json"), summary)
    typer.echo(f"{len(replies)} labelled replies {summary['replies']} in {out}; {len(missing)} left out, unlabelled")
    typer.echo(f"{summary['variance_explained_by_kind']:.1%} of the labels' variance is the kind of reply alone")
    typer.echo(summary["licence"])


def _labelled(kept: Sequence[Candidate], items: dict[str, Items] | None) -> list[LabelledReply]:
    """`items` are the language model's, by candidate; None for labels without one."""
    from reward_servers.progress import shown_progress
    from reward_servers.turn_scorers.labels import labelled

    replies = []
    with shown_progress("labels") as told:
        for done, candidate in enumerate(kept, start=1):
            replies.append(labelled(candidate, None if items is None else items.get(candidate.id, _FOREIGN)))
            told(done, len(kept))
    return replies


def _summary(replies: Sequence[LabelledReply], missing: dict[str, str], judge: str | None) -> dict[str, Any]:
    from reward_servers.turn_scorers.dialogues import LICENCE_NOTE
    from reward_servers.turn_scorers.labels import explained_by_kind

    return {
        "replies": dict(Counter(reply.kind.value for reply in replies)),
        "by_split": dict(Counter(reply.split.value for reply in replies)),
        "without_label": len(missing),
        "reasons": dict(Counter(missing.values()).most_common(20)),
        "variance_explained_by_kind": explained_by_kind(replies),
        "judge": judge,
        "licence": LICENCE_NOTE,
    }


_FOREIGN = (0, 0, 0, 0, 0)  # a foreign reply is not asked about


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """The language model of the label."""

    url: str
    name: str | None
    token: str
    concurrency: int

    def opened(self) -> AbstractAsyncContextManager[ChatEndpoint]:
        from evaluation.chat_endpoint import open_endpoint
        from reward_servers.client import RetryPolicy

        policy = RetryPolicy(timeout_s=300.0, concurrency=self.concurrency)
        return open_endpoint(self.url, self.name, self.token, policy)


async def _name_of(url: str, name: str | None, token: str) -> str:
    """The model's name; errors as `open_endpoint`."""
    async with _Endpoint(url, name, token, 1).opened() as model:
        return model.name


def _check_missing(missing: dict[str, str], so_far: int, asked: int, most: float) -> None:
    """Whether more replies are without a label than may be, or most of the first ones are: both end the run."""
    hopeless = so_far >= _FEWEST_JUDGED and len(missing) > max(most, 0.5) * so_far
    if len(missing) > most * asked or hopeless:
        name, why = next(iter(missing.items()))
        raise LabellingError(
            f"{len(missing)} of the {so_far} replies asked about have no label, and --max-missing allows {most:.0%} of "
            f"{asked}; the first, {name}: {why}. What was answered is in the cache: run it again, or take another model"
        )


async def _ask(
    endpoint: _Endpoint, max_tokens: int, max_missing: float, cache: Path, asked: Sequence[Candidate]
) -> tuple[dict[str, Items], dict[str, str]]:
    """Items by candidate, and for those without why: a failed call, or an answer that cannot be read.

    Raises:
        LabellingError: more than `max_missing` of all have none; told as soon as it is certain.
    """
    from evaluation.reply_cache import ReplyCache
    from reward_servers.progress import shown_progress

    items: dict[str, Items] = {}
    missing: dict[str, str] = {}
    with shown_progress("labelling") as told:
        async with endpoint.opened() as model:
            for start in range(0, len(asked), _TOGETHER):
                some = asked[start : start + _TOGETHER]
                part = _Part(told, start, len(some), len(asked))
                found, lacking = await _ask_some(model, some, max_tokens, ReplyCache(cache), part)
                items |= found
                missing |= lacking
                _check_missing(missing, start + len(some), len(asked), max_missing)
    return items, missing


@dataclass(frozen=True, slots=True)
class _Part:
    """Tells the progress of a part of the candidates as that of all; not of the few that are asked about again."""

    told: Told
    before: int
    size: int
    total: int

    def __call__(self, done: int, asked: int) -> None:
        if asked == self.size:
            self.told(self.before + done, self.total)


async def _ask_some(
    model: ChatEndpoint, asked: Sequence[Candidate], max_tokens: int, cache: ReplyCache, on_reply: OnReply
) -> tuple[dict[str, Items], dict[str, str]]:
    from evaluation.readings import ask_readable
    from evaluation.replies import Question, Sampling
    from reward_servers.turn_scorers.llm_items import item_messages

    found = await ask_readable(
        model,
        [Question(candidate.id, item_messages(candidate)) for candidate in asked],
        Sampling(max_tokens),
        lambda reply: items if isinstance(items := _items_of(reply.text), tuple) else None,
        cache,
        on_reply,
    )
    missing = {name: str(_items_of(text)) for name, text in found.unreadable.items()}
    missing |= {name: f"{failure.message} ({failure.kind.value})" for name, failure in found.failures.items()}
    return {name: items for name, (items, _) in found.read.items()}, missing


def _items_of(answer: str) -> Items | UnreadableAnswerError:
    """What a model said of five items, or what is wrong with its answer."""
    from dialogue.model_answer import UnreadableAnswerError
    from reward_servers.turn_scorers.llm_items import parse_items

    try:
        return parse_items(answer)
    except UnreadableAnswerError as error:
        return error


def pretrain_command(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="GoEmotions: train.tsv and dev.tsv.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The encoder, for `train --encoder`.")],
    encoder: EncoderOption = "minilm",
    epochs: Annotated[int, typer.Option(min=1, help="Published: 2.")] = 2,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    rate: Annotated[float, typer.Option(min=0)] = 2e-5,
    tuned_layers: TunedOption = None,
    pooling: PoolingOption = "first",
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many comments.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train an encoder on GoEmotions first, as MVC may have it. A stopped run goes on where it last saved.

    \b
    rapport scorer pretrain --data goemotions --out runs/goemotions-encoder
    rapport scorer train mvc --encoder runs/goemotions-encoder ...
    """
    from reward_servers.progress import shown_progress
    from reward_servers.turn_scorers.pretraining import Pretraining, pretrain
    from reward_servers.turn_scorers.recipe import Pooling

    options = Pretraining(encoder, batch, rate, epochs, pooling=Pooling(pooling), tuned_layers=tuned_layers, seed=seed)
    with shown_progress("goemotions") as told:
        result = pretrain(data, out, options, lambda n, of, loss: told(n, of, f"loss {loss:.3f}"), limit)
    scores = f"micro F1 {result.micro_f1:.3f}, macro F1 {result.macro_f1:.3f}"
    typer.echo(f"{scores} on {result.comments} dev comments; the encoder is in {out}. Source: GoEmotions, CC BY 4.0")


def train_command(
    variant: Annotated[
        Literal["baseline", "stm", "mvc", "all"], typer.Argument(help="Which architecture; all: one after another.")
    ],
    labels: LabelsOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="DIR/VARIANT/seed-N is written.")],
    seeds: Annotated[str, typer.Option(help="Numbers joined by commas.")] = "0,1,2",
    encoder: EncoderOption = "minilm",
    batch: Annotated[int | None, typer.Option(help="Published: 16, 16, 8.")] = None,
    rate: Annotated[float | None, typer.Option(help="Published: 3e-5, 2e-5, 2e-5.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Published: 5, 10, 4.")] = None,
    emotion_epochs: Annotated[int | None, typer.Option(help="STM's first stage; published: 15.")] = None,
    emotion_rate: Annotated[float | None, typer.Option(help="STM's first stage; published: 5e-6.")] = None,
    head_rate: Annotated[float | None, typer.Option(help="Of the heads, if not that of the encoder.")] = None,
    max_length: Annotated[int, typer.Option(help="Tokens of context and reply.")] = 256,
    tuned_layers: TunedOption = None,
    pooling: PoolingOption = "first",
) -> None:
    """Train Baseline, STM or MVC on labelled replies, once per seed.

    \b
    rapport scorer train all --labels labels.jsonl --out runs/scorers
    rapport scorer train mvc --labels labels.jsonl --out runs/scorers \\
      --encoder roberta-base
    rapport serve CONFIG.yaml, with in it
      quality: {folder: runs/scorers/mvc/seed-0}

    What is not given is as published. A run that was stopped goes on where it
    last saved; what is finished is left as it is. Uses CUDA where there is one.

    The labels come from EmpatheticDialogues (CC BY-NC 4.0), so do the weights:
    for research, not for commercial use.
    """
    from reward_servers.progress import shown_progress
    from reward_servers.turn_scorers.dialogues import LICENCE_NOTE
    from reward_servers.turn_scorers.frozen import KeptStates
    from reward_servers.turn_scorers.labels import read_labels
    from reward_servers.turn_scorers.recipe import Pooling
    from reward_servers.turn_scorers.training import check_folders, train_scorer

    given = {"batch": batch, "rate": rate, "epochs": epochs, "head_rate": head_rate, "tuned_layers": tuned_layers}
    stm = {"emotion_epochs": emotion_epochs, "emotion_rate": emotion_rate}
    fixed = {"encoder": encoder, "max_length": max_length, "pooling": Pooling(pooling)}
    recipes = _recipes(variant, given | fixed, stm, _numbers(seeds))
    replies = read_labels(labels)
    typer.echo(LICENCE_NOTE)
    folders = {out / recipe.variant.value / f"seed-{recipe.seed}": recipe for recipe in recipes}
    check_folders(replies, folders)
    states = KeptStates()
    for folder, recipe in folders.items():
        with shown_progress(f"{recipe.variant}, seed {recipe.seed}") as told:
            train_scorer(replies, recipe, folder, _teller(told), states=states)
        typer.echo(f"{recipe.variant}, seed {recipe.seed}: {_last_line(folder)} -> {folder}")


def _recipes(variant: str, given: dict[str, Any], stm: dict[str, Any], seeds: Sequence[int]) -> list[Recipe]:
    """The published recipes with what was given, not None, in place of theirs."""
    from reward_servers.turn_scorers.recipe import PUBLISHED, Variant

    if variant not in (Variant.STM, "all") and any(value is not None for value in stm.values()):
        raise OptionError(f"--emotion-epochs and --emotion-rate are of STM's first stage, which {variant} has not")
    recipes = []
    for one in list(Variant) if variant == "all" else [Variant(variant)]:
        own = given | stm if one is Variant.STM else given
        changes = {name: value for name, value in own.items() if value is not None}
        recipes += [replace(PUBLISHED[one], **changes, seed=seed) for seed in seeds]
    return recipes


def _teller(told: Told) -> Callable[[Step], None]:
    return lambda step: told(step.done, step.steps, f"stage {step.stage}, loss {step.loss:.3f}")


def _last_line(folder: Path) -> str:
    from reward_servers.turn_scorers.saved import METRICS

    last = json.loads((folder / METRICS).read_text(encoding="utf-8").splitlines()[-1])
    return f"valid MAE {last['valid_mae']:.3f}, emotion accuracy {last['valid_emotion_accuracy']:.3f}"


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise OptionError(f"--seeds is {text!r}; expected different whole numbers joined by commas, like 0,1,2")
    return [int(part) for part in parts]


def eval_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `train --out` wrote, or a part of it.")],
    labels: LabelsOption,
    out: Annotated[Path | None, typer.Option("--json", metavar="OUT.json", help="All figures.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="At most so many test conversations.")] = None,
    resamples: Annotated[int, typer.Option(min=100, max=50_000, help="Bootstrap resamples.")] = 1000,
) -> None:
    """MAE, Spearman, emotion accuracy and latency on the test split, over the seeds of each variant, with intervals.

    Then the published order of the variants, each pair tested: it holds, is
    reversed, or is not settled by these data. What each scorer says is kept
    in its folder: a run that was stopped goes on with the next one.

    \b
    rapport scorer eval runs/scorers --labels labels.jsonl --json eval.json
    """
    from evaluation.files import check_target, write_json
    from evaluation.printing import result_console
    from reward_servers.progress import shown_progress
    from reward_servers.turn_scorers.labels import read_labels
    from reward_servers.turn_scorers.measuring import find_scorers, held_out_replies, kept_predictions, report
    from reward_servers.turn_scorers.printing import eval_tables
    from reward_servers.turn_scorers.saved import read_card

    if out is not None:
        check_target(out)
    folders = find_scorers(folder)
    replies = held_out_replies(read_labels(labels), folders, limit)
    predictions: dict[Any, list[Any]] = {variant: [] for variant in folders}
    for variant, own in folders.items():
        for one in own:
            with shown_progress(f"{variant}/{one.name}") as told:
                predictions[variant].append(kept_predictions(one, replies, told))
    seeds = {variant: tuple(read_card(one).recipe.seed for one in own) for variant, own in folders.items()}
    with shown_progress("resampling") as told:
        result = report(replies, predictions, seeds, resamples, told)
    if out is not None:
        write_json(out, result.as_dict())
    result_console().print(eval_tables(result))


def trust_command(
    ratings: Annotated[
        list[Path], typer.Argument(metavar="RATINGS...", help="Ratings files; names of the experts' begin with expert.")
    ],
    gold: Annotated[Path, typer.Option("--gold", metavar="DIR", help="People's replies: MINT's outputs/gold.")],
    scorer: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="A scorer, reward model or calibrated judge; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", metavar="OUT.json", help="All figures.")] = None,
    resamples: Annotated[int, typer.Option(min=100, max=50_000, help="Bootstrap resamples.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
) -> None:
    """Which reward deserves trust? Agreement of scorers, judges and people with the experts, in one table.

    Each scorer rates the supporter's turns of the rated conversations; its mean
    over a conversation is held against the experts' ratings of it. The shipped
    scorer is always there, and so is the number of words, which a reward should
    beat.

    \b
    rapport scorer trust lend_an_ear/*_ratings.csv --gold mint/outputs/gold \\
      --scorer runs/scorers --scorer models/my-reward-model

    Once over all conversations, once over those kept out of all training of
    the shipped scorer: only the second is fair to everybody.
    """
    from evaluation.agreement import load_raters
    from evaluation.files import check_target, write_json
    from evaluation.lend_an_ear.turns import read_turns
    from evaluation.printing import print_trust, result_console
    from evaluation.ratings import read_conversation_ratings
    from evaluation.trust import Rated, by_conversation, tables_of
    from reward_servers.empathy.data import held_out_conversations
    from reward_servers.protocol import ScoreRequest
    from reward_servers.turn_scorers.opening import open_scorer, scorer_folders

    if out is not None:
        check_target(out)
    raters = load_raters(ratings)
    names = sorted(read_conversation_ratings(ratings[0]))
    folders = [one for given in scorer or [] for one in scorer_folders(given)]
    turns = [turn for turn in read_turns(str(gold)) if turn.place[0] in set(names)]
    requests = [ScoreRequest(turn.id, turn.history, turn.text) for turn in turns]
    owners = [turn.place[0] for turn in turns]

    def mean(values: Any) -> Any:
        return by_conversation(names, owners, values)

    rated = [Rated.of_rater(rater) for rater in raters if not rater.is_expert]
    rated.append(_words(requests, mean))
    rated += [_rated(open_scorer(folder), requests, mean) for folder in (None, *folders)]
    experts = [rater for rater in raters if rater.is_expert]
    tables = tables_of(experts, rated, names, held_out_conversations(), resamples, seed)
    if out is not None:
        write_json(out, {which: table.as_dict() for which, table in tables.items()})
    print_trust(tables, result_console())


def _words(requests: Sequence[ScoreRequest], mean: Callable[[Any], Any]) -> Rated:
    import numpy as np

    from evaluation.trust import Rated

    counts = np.array([float(len(request.response.split())) for request in requests])
    return Rated("number of words", mean(counts), in_points=False, note="no scorer: what one should beat")


def _rated(scorer: Opened, requests: Sequence[ScoreRequest], mean: Callable[[Any], Any]) -> Rated:
    """A scorer's means over conversations, scored piece by piece for the bar."""
    import numpy as np

    from evaluation.ratings import aggregated
    from evaluation.trust import Rated
    from reward_servers.progress import shown_progress

    values: list[Any] = []
    with shown_progress(scorer.name) as told:
        for done, request in enumerate(requests, start=1):
            six = scorer.dimensions([request])
            values.append(six[0].dimensions if six else scorer.quality([request])[0])
            told(done, len(requests))
    table = np.array(values, dtype=np.float64)
    if table.ndim == 1:
        return Rated(scorer.name, mean(table), in_points=scorer.in_points, note=scorer.note)
    dimensions = mean(table)
    return Rated(scorer.name, aggregated(dimensions), dimensions, note=scorer.note)
