"""From a configuration to a finished run: check all that can be checked without Ray, start the parts, train, close.

    prepare (no Ray): model folder, tokenizer, conversations, split, prompt lengths, names in the loss, server's health
    run     (in Ray): reward servers -> tags of past turns -> warm start -> rollout workers and learners -> Trainer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dialogue.conversation import Conversation
from dialogue.loaders import load_conversations
from dialogue.split import split_conversations
from dialogue.tactics import TACTICS
from rl.checkpoint import RunFolder
from rl.config import ConfigError, PromptMode, RunConfig
from rl.models import resolve_model
from rl.prompts import PromptSet, TurnKey, build_prompts, supporter_texts
from rl.tracking import validate_trackers
from rl.types import TurnTactics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rl.closing import Closing


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that has passed every check that needs no Ray."""

    config: RunConfig
    model_path: Path
    tokenizer: PreTrainedTokenizerBase
    train: tuple[Conversation, ...]
    held_out: tuple[Conversation, ...]

    @property
    def train_turns(self) -> int:
        return sum(len(conversation.supporter_turns()) for conversation in self.train)

    def describe(self) -> str:
        """The plan, for `--dry-run` and the log."""
        config = self.config
        turns = self.train_turns
        steps = config.steps or config.epochs * (turns // config.prompts_per_step)
        held_turns = min(
            config.evaluation.max_prompts, sum(len(conversation.supporter_turns()) for conversation in self.held_out)
        )
        method = f"LoRA rank {config.model.lora.rank}" if config.model.lora.rank else "full fine-tuning"
        servers = config.servers.url or f"started here, {config.servers.replicas} replica(s) each"
        return "\n".join(
            (
                f"model           {self.model_path} ({method}, {config.model.dtype.value})",
                f"data            {len(self.train)} conversations, {turns} supporter turns to train on;"
                f" {len(self.held_out)} held out, {held_turns} turns evaluated",
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
        ConfigError, DataError, ModelError: with what to change.
    """
    from transformers import AutoTokenizer

    from rl.advantage import validate_advantage
    from rl.losses import validate_loss

    validate_trackers(config.trackers)
    conversations = load_conversations("starter" if config.data.path == "starter" else Path(config.data.path))
    train, held_out = split_conversations(conversations, config.data.holdout_fraction, config.data.split_seed)
    validate_advantage(config.learner.loss.advantage)
    validate_loss(config.learner.loss)
    model_path = resolve_model(config.model.path)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    if not tokenizer.chat_template:
        raise ConfigError(f"model.path={config.model.path}: its tokenizer has no chat template, which dialogue needs")
    if config.servers.url:
        from reward_servers.client import check_url

        check_url(config.servers.url, config.servers.token, config.servers.timeout_s)
    prepared = Prepared(config, model_path, tokenizer, tuple(train), tuple(held_out))
    turns = len(_longest_prompts(train, prepared).prompts)
    _longest_prompts(held_out, prepared)
    if config.prompts_per_step > turns:
        raise ConfigError(f"prompts_per_step={config.prompts_per_step}: the training side has only {turns} prompts")
    return prepared


def _longest_prompts(conversations: Sequence[Conversation], prepared: Prepared) -> PromptSet:
    """Prompts as long as they can get, since the tactics of past turns, which some system prompts list, are not known
    yet: every tactic used once."""
    config = prepared.config
    worst: TurnTactics = (TACTICS,) if config.data.system_prompt is PromptMode.tactics_history else ()
    tactics = dict.fromkeys(supporter_texts(conversations), worst)
    return build_prompts(conversations, tactics, prepared.tokenizer, config)
