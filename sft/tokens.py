"""From conversations to token ids: what is learnt, where the heads read, and what is left out when it gets long.

For ChatML, with `#` under what the LM learns, E where the emotion head reads and S where the strategy head does:

    <|im_start|>user My cat is ill.<|im_end|>\\n<|im_start|>assistant\\nOh no. How is he?<|im_end|>
                                             E                       S##########################

**Emotion** is read at the last token of the seeker's turn: the longest common beginning of the turn rendered alone and
rendered with the opening of the reply. **Strategy** is read at the last token before the reply, from which its first
token is predicted: neither sees any of the reply. The LM learns the reply's tokens and the end-of-sequence token.

**Sharing.** All replies of a conversation share one sequence where each prompt only adds tokens to the one before.
Where a template changes earlier turns (Qwen3 without thinking opens only the last reply with an empty thinking block),
each reply is a sequence of its own, so that what is learnt is what inference will see.

**Length.** A sequence has at most `max_tokens`. When the next reply does not fit, a new sequence begins with it and the
latest turns before it, up to half of `max_tokens`, so that the replies after it fit as well. Whole turns are cut, from
the left; the system prompt, the reply and the seeker's turn that it answers never are. Where these alone do not fit,
the reply is left out and counted.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from dialogue.control_tokens import ControlTokens
from dialogue.conversation import Conversation, Message, Role, Turn
from dialogue.loaders import DataError
from sft.emotions import Emotion
from sft.examples import Affect, Example, Loss, Source
from sft.pieces import PieceEncoder
from sft.strategies import Strategy
from sft.system_role import system_in_first_turn, takes_system

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_READ_REPLIES = frozenset({Loss.LM, Loss.SAFETY, Loss.STRATEGY})


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """How conversations are rendered.

    `system`: the system prompt, "" for the template's own. `enable_thinking` goes to the chat template.
    """

    max_tokens: int = 1024
    system: str = ""
    enable_thinking: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 2:
            raise ValueError(f"max_tokens is {self.max_tokens}; a prompt and a reply need at least 2")


class ReplySpan(NamedTuple):
    """The tokens `start` to `stop` of a sequence are the reply with this index in the sequence's `turns`."""

    turn: int
    start: int
    stop: int


class Prompt(NamedTuple):
    """What inference reads: (T,) token ids up to and including the opening of the reply, and where the seeker ends."""

    ids: tuple[int, ...]
    seeker_end: int


class EmotionRead(NamedTuple):
    position: int
    emotions: tuple[Emotion, ...]


class StrategyRead(NamedTuple):
    position: int
    strategy: Strategy


class AffectRead(NamedTuple):
    position: int
    affect: Affect


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One row of a batch.

    Attributes:
        id: the example's, and the indices of the first and last turn of the conversation that it holds.
        turns: the turns that were rendered, starting with the seeker.
        ids: (T,) token ids.
        replies: what the LM learns, in order.
    """

    id: str
    source: Source
    losses: frozenset[Loss]
    turns: tuple[Turn, ...]
    ids: tuple[int, ...]
    replies: tuple[ReplySpan, ...] = ()
    emotions: tuple[EmotionRead, ...] = ()
    strategies: tuple[StrategyRead, ...] = ()
    affects: tuple[AffectRead, ...] = ()

    def lm_mask(self) -> tuple[bool, ...]:
        """(T,) whether each token is learnt."""
        mask = [False] * len(self.ids)
        for reply in self.replies:
            mask[reply.start : reply.stop] = [True] * (reply.stop - reply.start)
        return tuple(mask)


@dataclass(frozen=True, slots=True)
class Tokenised:
    """The sequences of one example, and how many of its turns could not be used because they are too long."""

    sequences: tuple[TokenSequence, ...]
    too_long: int


class _Exchange(NamedTuple):
    """A seeker's turn in its context, and the reply to it, rendered."""

    prompt: tuple[int, ...]  # up to and including the opening of the reply
    seeker_end: int  # index in `prompt` of the last token of the seeker's turn
    reply: tuple[int, ...]  # with its end; empty where nobody replied

    def __len__(self) -> int:
        return len(self.prompt) + len(self.reply) if self.reply else self.seeker_end + 1


@dataclass(slots=True)
class _Growing:
    """A sequence being built; `first` is the index of its first turn in the conversation."""

    first: int
    ids: list[int] = field(default_factory=list)
    replies: list[ReplySpan] = field(default_factory=list)
    emotions: list[EmotionRead] = field(default_factory=list)
    strategies: list[StrategyRead] = field(default_factory=list)
    affects: list[AffectRead] = field(default_factory=list)
    last: int = 0  # index in the conversation of the last turn that it holds

    def add(self, exchange: _Exchange, example: Example, index: int) -> None:
        """Append the seeker's turn `index` and its reply, with their labels."""
        if index in example.emotions and Loss.EMOTION in example.losses:
            self.emotions.append(EmotionRead(exchange.seeker_end, example.emotions[index]))
        if index in example.affects and Loss.AFFECT in example.losses:
            self.affects.append(AffectRead(exchange.seeker_end, example.affects[index]))
        if not exchange.reply:
            self.ids, self.last = list(exchange.prompt[: exchange.seeker_end + 1]), index
            return
        self.ids, self.last = [*exchange.prompt, *exchange.reply], index + 1
        start = len(exchange.prompt)
        self.replies.append(ReplySpan(index + 1 - self.first, start, len(self.ids)))
        if index + 1 in example.strategies and Loss.STRATEGY in example.losses:
            self.strategies.append(StrategyRead(start - 1, example.strategies[index + 1]))

    def freeze(self, example: Example, turns: tuple[Turn, ...]) -> TokenSequence:
        reads = {Loss.EMOTION: self.emotions, Loss.STRATEGY: self.strategies, Loss.AFFECT: self.affects}
        losses = {loss for loss in example.losses if reads.get(loss, self.replies)}
        return TokenSequence(
            f"{example.id}/{self.first}-{self.last}",
            example.source,
            frozenset(losses),
            turns[self.first : self.last + 1],
            tuple(self.ids),
            tuple(self.replies),
            tuple(self.emotions),
            tuple(self.strategies),
            tuple(self.affects),
        )


class ChatTokens:
    """Renders examples with the chat template of a tokenizer.

    Raises:
        DataError: the tokenizer has no chat template, or no end-of-sequence token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: TokenConfig) -> None:
        if not tokenizer.chat_template:
            raise DataError(
                "the tokenizer has no chat template, so turns cannot be told apart; take an instruct model, or set "
                "`chat_template` in its tokenizer_config.json"
            )
        if tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no eos_token, so the model could not learn where a reply ends")
        self._tokenizer = tokenizer
        self._pieces = PieceEncoder(tokenizer)
        self.control = ControlTokens(tokenizer)
        self._config = config
        self._takes_system = takes_system(tokenizer)

    def tokenise(self, example: Example) -> Tokenised:
        """The sequences of one example; several where it is long or the template changes earlier turns.

        Raises:
            DataError: the chat template refuses the conversation.
        """
        turns, done, too_long = example.conversation.turns, list[_Growing](), 0
        for index in _wanted(example):
            last, budget = (done[-1] if done else None), self._config.max_tokens
            exchange = None
            if last is not None:
                exchange, budget = self._follow(last, example, index)
            if exchange is None:
                last = _Growing(self._first_turn(example, index, budget))
                exchange = self._exchange(example, last.first, index)
                if len(exchange) > self._config.max_tokens:
                    too_long += 1
                    continue
                done.append(last)
            assert last is not None
            last.add(exchange, example, index)
        return Tokenised(tuple(growing.freeze(example, turns) for growing in done), too_long)

    def prompt(self, conversation: Conversation) -> Prompt:
        """What is read before the reply to a conversation's last turn, at the places that training reads.

        Earlier turns are left out, from the first on, until it fits `max_tokens`; the last one never is.

        Raises:
            DataError: the last turn is not the seeker's, or the chat template refuses the conversation.
        """
        ids, shown = self._fitting(conversation, self._config.max_tokens)
        return Prompt(ids, self._seeker_end(conversation.id, ids, shown))

    def answers(self, conversation: Conversation, replies: Sequence[str]) -> tuple[TokenSequence, ...] | None:
        """The same prompt with each of several replies, as sequences that feed the LM; for preferences among them.

        Earlier turns are left out, from the first on, until the longest fits `max_tokens`; None where the seeker's
        last turn alone does not fit with it.

        Raises:
            DataError: the last turn is not the seeker's, or the chat template refuses the conversation.
        """
        encoded = [self._encode_reply(text) for text in replies]
        longest = max(map(len, encoded))
        prompt, shown = self._fitting(conversation, self._config.max_tokens - longest)
        if len(prompt) + longest > self._config.max_tokens:
            return None
        fed, start = frozenset({Loss.LM}), len(prompt)
        return tuple(
            TokenSequence(
                f"{conversation.id}/{number}", Source.OWN, fed, (*shown, Turn(Role.SUPPORTER, text)), (*prompt, *reply),
                (ReplySpan(len(shown), start, start + len(reply)),),
            )
            for number, (text, reply) in enumerate(zip(replies, encoded, strict=True))
        )  # fmt: skip

    def _fitting(self, conversation: Conversation, limit: int) -> tuple[tuple[int, ...], tuple[Turn, ...]]:
        """The opening of the reply to the last turn within `limit` tokens where that is possible, and its turns."""
        turns = conversation.turns
        if not turns or turns[-1].role is not Role.SEEKER:
            raise DataError(
                f"conversation {conversation.id}: the last turn must be the seeker's, who is to be answered"
            )
        starts = [index for index, turn in enumerate(turns) if turn.role is Role.SEEKER]
        place = bisect.bisect_left(starts, True, key=lambda s: len(self._opened(conversation.id, turns[s:])) <= limit)
        shown = turns[starts[min(place, len(starts) - 1)] :]
        return self._opened(conversation.id, shown), shown

    def under_system(self, sequence: TokenSequence, system: str) -> TokenSequence:
        """The same turns and replies under another system prompt: what a rules-prompted teacher reads.

        The token ids of every reply are those of `sequence`, at other positions; labels are not carried over. It is
        longer than `sequence` by the difference of the system prompts, and never cut.

        Raises:
            DataError: the template does not allow the replies to share a sequence under this system prompt.
        """
        ids: tuple[int, ...] = ()
        replies = []
        for reply in sequence.replies:
            prompt = self._render(sequence.turns[: reply.turn], system, opening=True)
            if prompt[: len(ids)] != ids:
                raise DataError(f"sequence {sequence.id}: the chat template changes earlier turns under the rules")
            ids = prompt + sequence.ids[reply.start : reply.stop]
            replies.append(ReplySpan(reply.turn, len(prompt), len(ids)))
        return TokenSequence(sequence.id, sequence.source, sequence.losses, sequence.turns, ids, tuple(replies))

    def opening(self, system: str) -> tuple[int, ...]:
        """The tokens that conversations begin with under a system prompt, whatever the seeker says."""
        said = [(Turn(Role.SEEKER, text),) for text in ("I", "my")]
        first, second = (self._render(turns, system, opening=True) for turns in said)
        return first[: _common_length(first, second)]

    def _follow(self, growing: _Growing, example: Example, index: int) -> tuple[_Exchange | None, int]:
        """The exchange, if it can be appended to `growing`; else None and what a sequence that begins anew may hold."""
        exchange = self._exchange(example, growing.first, index)
        if exchange.prompt[: len(growing.ids)] != tuple(growing.ids):
            return None, self._config.max_tokens
        if len(exchange) > self._config.max_tokens:
            return None, self._config.max_tokens // 2
        return exchange, 0

    def _first_turn(self, example: Example, index: int, budget: int) -> int:
        """The earliest seeker turn from which the exchange fits `budget`, else the seeker's latest."""
        starts = range(0, index + 1, 2)
        place = bisect.bisect_left(starts, True, key=lambda s: len(self._exchange(example, s, index)) <= budget)
        return starts[min(place, len(starts) - 1)]

    def _exchange(self, example: Example, first: int, index: int) -> _Exchange:
        turns = example.conversation.turns
        shown = turns[first : index + 1]
        prompt = self._opened(example.id, shown)
        end = len(prompt) - 1
        if index in example.emotions or index in example.affects:
            end = self._seeker_end(example.id, prompt, shown)
        if index + 1 == len(turns) or not example.losses & _READ_REPLIES:
            return _Exchange(prompt, end, ())
        return _Exchange(prompt, end, self._encode_reply(turns[index + 1].text))

    def _encode_reply(self, text: str) -> tuple[int, ...]:
        """A reply with its end, as the prompts after it have it."""
        return (*self._pieces.encode(self.control.plain(text)), self._tokenizer.eos_token_id)

    def _opened(self, name: str, turns: Sequence[Turn], *, opening: bool = True) -> tuple[int, ...]:
        """Turns, and the opening of the reply to the last one; `name` is for the message of an error."""
        try:
            return self._render(turns, self._config.system, opening=opening)
        except Exception as error:  # noqa: BLE001 - templates are programs and raise what they like
            raise DataError(f"example {name}: the chat template refuses it ({error})") from error

    def _seeker_end(self, name: str, prompt: Sequence[int], turns: Sequence[Turn]) -> int:
        """Index in `prompt` of the last token of its last turn."""
        return _common_length(prompt, self._opened(name, turns, opening=False)) - 1

    def _render(self, turns: Sequence[Turn], system: str, *, opening: bool) -> tuple[int, ...]:
        opened: list[Message] = [{"role": "system", "content": system}] if system else []
        messages = [*opened, *self.control.plain_messages(turn.as_message() for turn in turns)]
        text = self._tokenizer.apply_chat_template(
            messages if self._takes_system else system_in_first_turn(messages),
            add_generation_prompt=opening,
            tokenize=False,
            enable_thinking=self._config.enable_thinking,
        )
        return self._pieces.encode(text)


def _wanted(example: Example) -> list[int]:
    """Indices of the seeker turns that a loss of the example reads, or whose reply one reads; others cost nothing."""
    on, turns = example.losses, example.conversation.turns
    wanted: set[int] = set()
    if on & {Loss.LM, Loss.SAFETY}:
        wanted.update(index - 1 for index in example.conversation.supporter_turns())
    for loss, labels in ((Loss.EMOTION, example.emotions), (Loss.AFFECT, example.affects)):
        wanted.update(labels if loss in on else ())
    if Loss.STRATEGY in on:
        wanted.update(index - 1 for index in example.strategies)
    return [index for index in range(len(turns)) if index in wanted]


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens the two have in common from their beginning."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
