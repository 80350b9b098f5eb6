"""From a configuration to a finished run: check all that can be checked without Ray, start the parts, train, close.

prepare (no Ray): run folder, conversations, split, model, tokenizer, servers, GPUs, prompt lengths, names in the loss
run     (in Ray): reward servers -> tags of past turns -> warm start -> rollout workers and learners -> Trainer
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dialogue.control_tokens import ControlTokens
from dialogue.conversation import Conversation
from dialogue.split import split_conversations
from dialogue.tactics import TACTICS
from rl.checkpoint import RunFolder
from rl.checks import (
    check_gpus,
    check_loss,
    check_model,
    check_servers,
    local_gpus,
    open_tokenizer,
    read_conversations,
)
from rl.config import ConfigError, PromptMode, RunConfig
from rl.models import resolve_model
from rl.prompts import (
    PromptSet,
    TurnKey,
    asked,
    build_prompts,
    past_texts,
    prompt_id,
    reply_examples,
    supporter_texts,
    trained_on,
)
from rl.threads import share_of_cores
from rl.tracking import RunLog, validate_trackers
from rl.types import Prompt, TurnTactics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rl.closing import Closing
    from rl.reward_client import BlockingScorer
    from rl.trainer import Workers

PROBED_CONVERSATIONS = 4  # each turn of theirs is scored with some twenty ways of cheating


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that has passed every check that needs no Ray."""

    config: RunConfig
    model_path: Path
    tokenizer: PreTrainedTokenizerBase
    train: tuple[Conversation, ...]
    held_out: tuple[Conversation, ...]
    lessons: tuple[Conversation, ...]  # of the warm start
    train_turns: int
    held_turns: int
    overlong: int
    crisis: int  # turns left out of training because the seeker is in crisis

    def describe(self) -> str:
        """The plan, for `--dry-run` and the log."""
        config = self.config
        turns = self.train_turns
        steps = config.steps or config.epochs * (turns // config.prompts_per_step)
        held_turns = min(config.evaluation.max_prompts, self.held_turns)
        overlong = f"; {self.overlong} over-long turns left out" if self.overlong else ""
        crisis = f" ({self.crisis} in a crisis left out)" if self.crisis else ""
        method = f"LoRA rank {config.model.lora.rank}" if config.model.lora.rank else "full fine-tuning"
        servers = config.servers.url or f"started here, {config.servers.replicas} replica(s) each"
        return "\n".join(
            (
                f"model           {self.model_path} ({method}, {config.model.dtype.value})",
                f"data            {len(self.train)} conversations, {turns} supporter turns to train on{crisis};"
                f" {len(self.held_out)} held out, {held_turns} turns evaluated{overlong}",
                f"steps           {steps} of {config.prompts_per_step} prompts x {config.rollout.n} rollouts",
                f"rollout         {config.rollout.workers} vLLM worker(s)",
                f"learner         {config.learner.engine.value}, {config.learner.ranks} rank(s)",
                f"reward          {config.reward.mode.value}; servers {servers}",
                f"run folder      {RunFolder(config).path}",
            )
        )


def prepare(config: RunConfig) -> Prepared:
    """Check everything that can be known before Ray starts.

    Raises:
        ConfigError, ModelError, ModelUnsupportedError: with what to change.
    """
    validate_trackers(config.trackers)
    share_of_cores(neighbours=1)  # refuses a variable that is no number
    RunFolder(config).check()
    train, held_out = _split(read_conversations("data.path", config.data.path), config)
    lessons = _lessons(config, train, held_out)
    model_path = resolve_model(config.model.path)
    tokenizer = open_tokenizer(config, model_path)
    check_model(config, model_path)
    check_servers(config.servers)
    if (gpus := local_gpus()) is not None:
        check_gpus(config, gpus)
    train_side, held_side = (_longest_prompts(side, tokenizer, config) for side in (train, held_out))
    if config.warm_start.data:
        _longest_prompts(lessons, tokenizer, config)
    turns, held_turns = len(trained_on(train_side.prompts, config)), len(asked(held_side.prompts, config))
    crisis = len(asked(train_side.prompts, config)) - turns
    if config.prompts_per_step > turns:
        raise ConfigError(
            f"prompts_per_step={config.prompts_per_step}: the training side of {config.data.path} has only {turns} "
            "prompts; lower it, or give more conversations"
        )
    check_loss(config)
    _warn_of_control_tokens((*train, *held_out), tokenizer, f"data.path={config.data.path}")
    if config.warm_start.data:
        _warn_of_control_tokens(lessons, tokenizer, f"warm_start.data={config.warm_start.data}")
    overlong = train_side.overlong + held_side.overlong
    sides = tuple(train), tuple(held_out), tuple(lessons)
    return Prepared(config, model_path, tokenizer, *sides, turns, held_turns, overlong, crisis)


def _warn_of_control_tokens(
    conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, origin: str
) -> None:
    said = [turn.text for conversation in conversations for turn in conversation.turns]
    ControlTokens(tokenizer).warn_of(said, origin)


def _lessons(
    config: RunConfig, train: Sequence[Conversation], held_out: Sequence[Conversation]
) -> Sequence[Conversation]:
    """What the warm start learns from: never a held-out conversation, whatever id it goes by in that file."""
    if not config.warm_start.data:
        return train
    kept_apart = {conversation.turns for conversation in held_out}
    read = read_conversations("warm_start.data", config.warm_start.data)
    lessons = [conversation for conversation in read if conversation.turns not in kept_apart]
    if not lessons:
        raise ConfigError(
            f"warm_start.data={config.warm_start.data}: every conversation of it is held out; give others"
        )
    return lessons


def _split(
    conversations: Sequence[Conversation], config: RunConfig
) -> tuple[Sequence[Conversation], Sequence[Conversation]]:
    if config.data.holdout_fraction == 0:
        return conversations, ()
    if len(conversations) < 2:
        raise ConfigError(
            f"{config.data.path} has one conversation, which cannot be split: add more, or data.holdout_fraction=0"
        )
    return split_conversations(conversations, config.data.holdout_fraction, config.data.split_seed)


def _longest_prompts(
    conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> PromptSet:
    """Prompts as long as they can get, since the tactics of past turns, which some system prompts list, are not known
    yet: every tactic used once."""
    if not conversations:
        return PromptSet((), overlong=0)
    worst: TurnTactics = (TACTICS,) if config.data.system_prompt is PromptMode.tactics_history else ()
    tactics = dict.fromkeys(supporter_texts(conversations), worst)
    return build_prompts(conversations, tactics, tokenizer, config)


def run(prepared: Prepared) -> None:
    """Train in the connected Ray cluster and, where conversations are held out, write the closing table.

    Raises:
        RolloutError, LearnerError, ScoringError, TrainingError, PromptError: the run stopped; started again it goes on
        from its last checkpoint.
    """
    import ray

    from rl.reward_client import start_scorer
    from rl.trainer import Trainer

    config = prepared.config
    check_gpus(config, ray.cluster_resources().get("GPU", 0.0))
    folder = RunFolder(config)
    folder.prepare()
    with ExitStack() as on_exit:
        log = RunLog(folder.path, config.trackers)
        on_exit.callback(log.close)
        log.say("plan\n" + prepared.describe())
        timings: dict[str, float] = {}
        with log.phase("start reward servers", timings):
            scorer = start_scorer(config, on_exit)
        with log.phase("tag past turns", timings):
            train = _tagged_prompts(prepared.train, prepared, scorer)
            held_out = _tagged_prompts(prepared.held_out, prepared, scorer, _evaluated)
        model_path = _warm_started(prepared, train, scorer, folder, log, timings)
        with log.phase("start rollout workers and learners", timings):
            workers = _start_workers(config, model_path, scorer, on_exit)
        log.say("started: " + "  ".join(f"{name} {seconds:.0f}s" for name, seconds in timings.items()))
        Trainer(config, workers, trained_on(train, config), held_out, folder, log).run()
        if held_out:
            for table in close_run(prepared, scorer, folder).tables():
                log.show(table)
        log.say(f"weights: {folder.latest()}/hf   samples: {folder.path}/samples.jsonl")


def close_run(prepared: Prepared, scorer: BlockingScorer, folder: RunFolder) -> Closing:
    """Compare the first and the last evaluation of the run and write `closing.json`."""
    from rl.closing import Closing, compare, probe_table
    from rl.evaluation import EvalRun

    evaluations = sorted(folder.path.glob("evaluation-*.json"))
    before, after = (EvalRun.load(evaluations[i]) for i in (0, -1))
    prompts = len({reply.prompt_id for reply in after.replies})
    changes = compare(before, after, prepared.config.reward)
    closing = Closing(
        before.step, after.step, prompts, changes, probe_table(scorer, prepared.held_out[:PROBED_CONVERSATIONS])
    )
    closing.save(folder.path / "closing.json")
    return closing


def _tagged_prompts(
    conversations: Sequence[Conversation],
    prepared: Prepared,
    scorer: BlockingScorer,
    choose: Callable[[Sequence[Prompt], RunConfig], Sequence[Prompt]] = lambda prompts, _: prompts,
) -> tuple[Prompt, ...]:
    """The chosen prompts with the tactics of their past supporter turns; only what lies in such a past is tagged."""
    if not conversations:
        return ()
    config, tokenizer = prepared.config, prepared.tokenizer
    chosen = choose(_longest_prompts(conversations, tokenizer, config).prompts, config)
    texts = past_texts(conversations, chosen)
    tactics: dict[TurnKey, TurnTactics] = dict(zip(texts, scorer.tag(list(texts.values())), strict=True))
    built = build_prompts(conversations, tactics, tokenizer, config, {prompt.id for prompt in chosen})
    return tuple(choose(built.prompts, config))


def _evaluated(held_out: Sequence[Prompt], config: RunConfig) -> tuple[Prompt, ...]:
    """A fixed sample of turns, the same for every evaluation and every seed."""
    mixed = sorted(asked(held_out, config), key=lambda prompt: hashlib.sha256(prompt.id.encode()).digest())
    return tuple(mixed[: config.evaluation.max_prompts])


def _warm_started(
    prepared: Prepared,
    train: tuple[Prompt, ...],
    scorer: BlockingScorer,
    folder: RunFolder,
    log: RunLog,
    timings: dict[str, float],
) -> Path:
    """The folder of the model that RL starts from: language-model fine-tuned first where the configuration says so.

    `train` holds the training side's prompts, from which the warm start learns unless it has data of its own.
    """
    from rl.warm_start import warm_start

    config = prepared.config
    if config.warm_start.epochs == 0:
        return prepared.model_path
    target = folder.path / "warm_start"
    if not target.is_dir():
        texts = {
            prompt_id(conversation, index): conversation.turns[index].text
            for conversation in prepared.lessons
            for index in conversation.supporter_turns()
        }
        prompts = train
        if prepared.lessons != prepared.train:
            with log.phase("tag the warm start's turns", timings):
                prompts = _tagged_prompts(prepared.lessons, prepared, scorer)
        examples = reply_examples(prompts, texts, prepared.tokenizer)
        with log.phase("warm start", timings) as progress:
            losses = warm_start(config, prepared.model_path, examples, target.resolve(), progress)
        log.say(f"warm start: loss {losses[0]:.2f} -> {losses[-1]:.2f} nats per token in {len(losses)} updates")
    return target.resolve()


def _start_workers(config: RunConfig, model_path: Path, scorer: BlockingScorer, on_exit: ExitStack) -> Workers:
    from rl.learner import LearnerGroup
    from rl.rollout import RolloutPool
    from rl.trainer import Workers

    pool, learner = RolloutPool(config, model_path), LearnerGroup(config, model_path)
    on_exit.callback(pool.close)
    on_exit.callback(learner.close)
    with ThreadPoolExecutor(2) as starting:  # both spend their time importing and loading
        for done in [starting.submit(pool.start), starting.submit(learner.start)]:
            done.result()
    return Workers(pool, learner, scorer)
