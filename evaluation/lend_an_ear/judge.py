"""A language model as the judge of a reply, on the six Lend-an-Ear dimensions from 1 to 5.

The wording is ours, not that of the paper's judge, so its ratings are comparable with each other and not with published
ones. The dimensions are described as in `rapport judge calibrate`, which rates whole conversations as experts did.
Every reply is judged alone, with what was said before it. The answer must be one JSON object with exactly the six names
and whole numbers from 1 to 5; any other is asked for once more and then counted as unreadable.
"""

from __future__ import annotations

from collections.abc import Sequence

from dialogue.conversation import Message
from dialogue.model_answer import UnreadableAnswerError
from evaluation.judge.rubric import HIGHEST, LOWEST, MEANINGS, parse_answer
from evaluation.replies import Question, Reply, Sampling
from reward_servers.protocol import Dimension

SAMPLING = Sampling(max_tokens=600)

_SPEAKERS = {"user": "Seeker", "assistant": "Supporter"}


def judge_question(name: str, history: Sequence[Message], reply: str) -> Question:
    """What the judge is asked about one reply."""
    scales = "\n".join(f"- {dimension.value}: the supporter {MEANINGS[dimension]}" for dimension in Dimension)
    form = ", ".join(f'"{dimension.value}": n' for dimension in Dimension)
    system = (
        "You rate one reply of a supporter in a conversation with a seeker who is having a hard time. Rate six things, "
        f"each from {LOWEST} (not at all) to {HIGHEST} (very much), and each for itself: a reply may be high on "
        "several or low on all. Rate only what the reply says, not what it could have meant, and let its length count "
        f"for nothing.\n\n{scales}\n\n"
        f"Answer with one JSON object and nothing else, every n a whole number from {LOWEST} to {HIGHEST}:\n{{{form}}}"
    )
    said = "\n\n".join(f"{_SPEAKERS[message['role']]}: {message['content']}" for message in history)
    asked = f"[The conversation so far]\n{said}\n\n[The reply to rate]\nSupporter: {reply}"
    return Question(name, ({"role": "system", "content": system}, {"role": "user", "content": asked}))


def read_ratings_of(answer: Reply) -> tuple[float, ...] | None:
    """Six ratings in the order of `Dimension`, or None where the answer is not exactly what was asked for."""
    try:
        return tuple(map(float, parse_answer(answer.text)))
    except UnreadableAnswerError:
        return None
