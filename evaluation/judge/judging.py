"""Ask a judge about conversations: six ratings for each, or why there are none. What was answered is in the cache.

An answer that cannot be read is asked for once more, as `evaluation.readings` does, and then counted: a calibration, a
judge in a table and a judge that scores replies all do the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dialogue.model_answer import UnreadableAnswerError
from evaluation.judge.rubric import IN_ORDER, Ratings, judge_messages, parse_answer
from evaluation.readings import ask_readable
from evaluation.replies import OnReply, Question, Reply, ReplyModel, Sampling
from evaluation.reply_cache import ReplyCache
from reward_servers.protocol import Dimension


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said in one pass.

    Attributes:
        ratings: conversation -> six ratings in the order of `Dimension`.
        missing: conversation -> why it has none: a failed call, or answers that cannot be read.
        failed: those of `missing` whose call failed, which asking again may help.
    """

    ratings: Mapping[str, Ratings]
    missing: Mapping[str, str]
    failed: frozenset[str] = frozenset()


async def judge_conversations(
    model: ReplyModel,
    conversations: Mapping[str, str],
    sampling: Sampling,
    order: Sequence[Dimension] = IN_ORDER,
    cache: ReplyCache | None = None,
    on_reply: OnReply | None = None,
) -> Judgement:
    """One pass over conversation id -> text. All are asked with one seed, so equal texts get equal ratings.

    Raises:
        ReplyError: the model answered none of them.
    """
    questions = [Question(name, judge_messages(text, order)) for name, text in conversations.items()]
    readings = await ask_readable(model, questions, sampling, _ratings_in, cache, on_reply, own_seeds=False)
    failed = {name: f"{failure.message} ({failure.kind.value})" for name, failure in readings.failures.items()}
    unreadable = {name: _fault_of(answer) for name, answer in readings.unreadable.items()}
    missing = {name: (failed | unreadable)[name] for name in conversations if name not in readings.read}
    return Judgement({name: ratings for name, (ratings, _) in readings.read.items()}, missing, frozenset(failed))


def _ratings_in(answer: Reply) -> Ratings | None:
    return None if _fault_of(answer.text) else parse_answer(answer.text)


def _fault_of(answer: str) -> str:
    """Why an answer cannot be read; empty where it can."""
    try:
        parse_answer(answer)
    except UnreadableAnswerError as error:
        return str(error)
    return ""
