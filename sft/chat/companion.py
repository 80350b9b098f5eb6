"""Talking with a model turn by turn, as `rapport chat` does.

companion = Companion.load("smollm2-135m", ChatOptions(locale="en-GB"))
reply = companion.reply("Nobody came to my birthday.")
reply.text, reply.verdict.kind, reply.emotion

What happens in a turn:

    detect -> write (style tokens, hidden reflection, memory) -> in a crisis: write again if the draft gives orders
           -> strip what is hidden -> in a crisis: make sure of the resources -> remember

A draft without an order is not written again: taking the likeliest token each time, the penalty would change nothing,
and somebody is waiting. In a crisis a failing model does not fail the turn: the fixed reply with the resources is
shown, and `Reply.failure` says what broke.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dialogue.control_tokens import ControlTokens
from dialogue.conversation import Message, Role, Turn
from dialogue.crisis.detector import Verdict, detect
from dialogue.prompts import PromptMode, system_prompt
from sft.chat.directives import directives_in
from sft.chat.hidden import (
    ASK_FOR_REFLECTION,
    ReflectionMode,
    instruction,
    reflection_line,
    strip_hidden,
    without_echo,
)
from sft.chat.memory import MemoryMode, chat_prompt, shorten, summary_of_feelings, summary_request
from sft.chat.policy import is_usable, show, without_resources
from sft.chat.resources import load_resources
from sft.chat.speaker import ChatError, Reading, Speaker, load_speaker
from sft.chat.style import Style
from sft.emotions import Emotion
from sft.predict import Sampling
from sft.strategies import Strategy

if TYPE_CHECKING:
    import torch

DEFAULT_STYLE = Style()
DEFAULT_SAMPLING = Sampling(max_new_tokens=128, temperature=0.7, top_p=0.9)

_REFLECTION_TOKENS, _SUMMARY_NEW_TOKENS = 48, 24


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a companion talks.

    Attributes:
        locale: whose crisis lines are offered; None takes the international default.
        resources: the user's own file of crisis lines, over the shipped one.
        seed: with the number of the turn, it decides what is drawn.
    """

    locale: str | None = None
    resources: Path | None = None
    style: Style = DEFAULT_STYLE
    reflection: ReflectionMode = ReflectionMode.INSTRUCTION
    memory: MemoryMode = MemoryMode.SUMMARY
    sampling: Sampling = DEFAULT_SAMPLING
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one turn.

    Attributes:
        text: what is shown.
        verdict: what the crisis detector found in the seeker's turn.
        emotions, strategies: probabilities from the heads; None where there are none.
        redecoded: the draft gave orders in a crisis and was written again.
        draft: what the model wrote first, where it was written again; not for showing.
        fixed: the model's text could not be used.
        added: resource lines that code added.
        reflection: the hidden line; not for showing.
        summary: what was remembered; "" on turn 1.
        failure: what broke while the model wrote, in a crisis; else "".
    """

    text: str
    verdict: Verdict
    emotions: Mapping[Emotion, float] | None
    strategies: Mapping[Strategy, float] | None
    redecoded: bool
    draft: str | None
    fixed: bool
    added: tuple[str, ...]
    reflection: str
    summary: str
    failure: str

    @property
    def emotion(self) -> Emotion | None:
        return max(self.emotions, key=self.emotions.__getitem__) if self.emotions else None

    @property
    def strategy(self) -> Strategy | None:
        return max(self.strategies, key=self.strategies.__getitem__) if self.strategies else None

    def as_dict(self, hidden: bool = False) -> dict[str, Any]:
        """For JSON; with `hidden`, what is not for showing as well."""
        verdict = self.verdict
        found: dict[str, Any] = {
            "reply": self.text,
            "crisis": {
                "kind": verdict.kind.value,
                "urgent": verdict.urgent,
                "evidence": [{"rule": one.rule, "words": one.words} for one in verdict.evidence],
            },
            "redecoded": self.redecoded,
            "fixed": self.fixed,
            "emotion": None if self.emotion is None else self.emotion.value,
            "emotions": _plain(self.emotions),
            "strategy": None if self.strategy is None else self.strategy.value,
            "strategies": _plain(self.strategies),
            "failure": self.failure,
        }
        return found | ({"reflection": self.reflection, "summary": self.summary, "draft": self.draft} if hidden else {})


class _Written(NamedTuple):
    raw: str
    draft: str | None
    reading: Reading
    reflection: str
    summary: str


class Companion:
    """One conversation with a model.

    Raises:
        ResourceError: the options name a file of crisis lines that cannot be used.
    """

    def __init__(self, speaker: Speaker, options: ChatOptions | None = None) -> None:
        self.options = options or ChatOptions()
        self.resources = load_resources(self.options.resources).find(self.options.locale)
        self._speaker = speaker
        self._history: tuple[Turn, ...] = ()
        self._feelings: tuple[str, ...] = ()

    @classmethod
    def load(
        cls, model: str | Path, options: ChatOptions | None = None, device: torch.device | None = None
    ) -> Companion:
        """`model`: the folder of a fine-tuned run, a Hugging Face folder, or a name that `rl.models` knows.

        Raises:
            ResourceError, ModelError, SavedModelError, BaseModelError, ChatError: see `load_speaker`.
        """
        chosen = options or ChatOptions()
        load_resources(chosen.resources)  # a faulty file is told before the weights are read
        return cls(load_speaker(str(model), device), chosen)

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns so far, as they were shown."""
        return self._history

    def reset(self) -> None:
        """Forget the conversation."""
        self._history, self._feelings = (), ()

    def reply(self, text: str) -> Reply:
        """Answer the seeker's turn and remember both.

        Raises:
            ChatError: the turn is empty or too long for the model; outside a crisis only.
        """
        said = _whole(text).strip()
        if not said:
            raise ChatError("the turn is empty: write something to be answered")
        verdict, failure = detect(said, self._as_heard()), ""
        try:
            written = self._write(said, verdict)
        except Exception as error:
            if not verdict.is_crisis:
                raise
            # Somebody in danger gets the numbers, whatever broke. The failure is in the reply, for the caller to tell.
            failure = f"{type(error).__name__}: {error}"
            written = _Written("", None, Reading(), "", "")
        shown = show(without_echo(strip_hidden(written.raw), self._secrets(written)), verdict, self.resources.resources)
        reply = Reply(
            text=shown.text,
            verdict=verdict,
            emotions=written.reading.emotions,
            strategies=written.reading.strategies,
            redecoded=written.draft is not None,
            draft=written.draft,
            fixed=shown.fixed,
            added=shown.added,
            reflection=written.reflection,
            summary=written.summary,
            failure=failure,
        )
        self._remember(said, reply)
        return reply

    def _write(self, said: str, verdict: Verdict) -> _Written:
        options, speaker = self.options, self._speaker
        seed = options.seed + len(self._history)
        reading = speaker.read((*self._history, Turn(Role.SEEKER, said)))
        summary = self._summary(seed) if self._history and options.memory.sums_up else ""
        reflection = self._reflection(said, reading, seed)
        system = speaker.system or system_prompt(PromptMode.simple)
        parts = (system, instruction(reflection) if reflection else "")
        messages = self._messages(parts, options.style.prefix() + said, summary)
        raw, draft = speaker.write(messages, options.sampling, seed), None
        if verdict.is_crisis and directives_in(strip_hidden(raw)):
            draft, raw = raw, speaker.write(messages, options.sampling, seed, penalise_directives=True)
        return _Written(raw, draft, reading, reflection, summary)

    def _messages(self, system: Sequence[str], said: str, summary: str) -> list[Message]:
        """What the model is asked; the earliest exchanges are left out where they would leave no room for the reply.

        Room is `max_new_tokens`, or half of what there is without them where that is less.
        """
        memory, room = self.options.memory, self._speaker.room
        starts = range(0, len(self._history) + 1 if memory.keeps_turns else 1, 2)

        def asked(start: int) -> list[Message]:
            return chat_prompt(system, said, self._history[start:], summary, memory)

        wanted = min(self.options.sampling.max_new_tokens, room(asked(starts[-1])) // 2)
        place = bisect.bisect_left(starts, True, key=lambda start: room(asked(start)) >= wanted)
        return asked(starts[min(place, len(starts) - 1)])

    def _as_heard(self) -> tuple[Turn, ...]:
        """The history for the detector: without the crisis lines of our last reply, which name what they are for."""
        if not self._history:
            return ()
        *before, last = self._history
        return (*before, Turn(last.role, without_resources(last.text, self.resources.resources)))

    def _reflection(self, said: str, reading: Reading, seed: int) -> str:
        mode = self.options.reflection
        if mode is ReflectionMode.OFF:
            return ""
        feeling = max(reading.emotions, key=reading.emotions.__getitem__).value if reading.emotions else None
        if mode is ReflectionMode.GENERATED:
            asked = chat_prompt((ASK_FOR_REFLECTION,), said, (), "", MemoryMode.NONE)
            line = _first_line(self._speaker.write(asked, Sampling(_REFLECTION_TOKENS), seed))
            if is_usable(line):
                return ControlTokens(self._speaker.tokenizer).plain(line)  # for the system prompt
        return reflection_line(feeling)

    def _summary(self, seed: int) -> str:
        tokenizer = self._speaker.tokenizer
        if self._feelings:
            return summary_of_feelings(self._feelings, tokenizer)
        written = self._speaker.write(summary_request(self._history), Sampling(_SUMMARY_NEW_TOKENS), seed)
        short = shorten(strip_hidden(written), tokenizer)
        return short if is_usable(short) else ""

    def _secrets(self, written: _Written) -> tuple[str, ...]:
        return tuple(filter(None, (written.reflection, instruction(written.reflection) if written.reflection else "")))

    def _remember(self, said: str, reply: Reply) -> None:
        self._history = (*self._history, Turn(Role.SEEKER, said), Turn(Role.SUPPORTER, reply.text))
        if reply.emotion is not None:
            self._feelings = (*self._feelings, reply.emotion.value)


def _whole(text: str) -> str:
    """Valid Unicode: halves of a pair are put together, or replaced where the other half is missing."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _first_line(text: str) -> str:
    return next((line.strip() for line in strip_hidden(text).splitlines() if line.strip()), "")


def _plain(probabilities: Mapping[Any, float] | None) -> dict[str, float] | None:
    return None if probabilities is None else {key.value: round(value, 4) for key, value in probabilities.items()}
