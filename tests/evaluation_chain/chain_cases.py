"""What the tests of the chain share: made-up conversations and scenarios, and an endpoint that answers by the call."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from dialogue.sentences import split_sentences
from evaluation.eq_bench.scenarios import Part
from reward_servers.protocol import Score, ScoreRequest
from reward_servers.service_config import SCORER, TAGGER

CONVERSATIONS = {
    "rain": [
        "The picnic was rained off and I cried.",
        "Oh, that is a pity. Who was coming?",
        "My sister. I see her once a year.",
        "A year is a long time to wait for one afternoon.",
    ],
    "keys": ["I lost my keys again.", "That sounds tiring. You could hang them on a hook."],
    "cat": ["The cat is gone since Monday.", "I would worry too.", "She is old.", "Tell me about her.", "She purrs."],
}


SCENARIOS = """######## 1 | Work | The borrowed mug
####### Prompt1
Your mug is gone.

It was blue.
####### Prompt2
You see it on another desk.

######## 201 | Friend | A note
####### Prompt1
Write to a friend who moved.

######## 401 | Analytical | The mug again
####### Prompt1
# Scenario act 1
Somebody's mug is gone.
"""
TEMPLATES = {
    Part.ROLE_PLAY: "{scenario_prompt}\n(play it)",
    Part.DRAFTING: "{scenario_prompt}\n(draft it)",
    Part.ANALYSIS: "Analyse: {scenario_prompt}",
    Part.DEBRIEF: "How did it go?",
    Part.RUBRIC: "MARK {transcript} AND {debrief} AS {output_format}",
    Part.RUBRIC_ANALYSIS: "MARK {transcript} AS {output_format}",
    Part.PAIRWISE: "WHICH {conversation_history_A} / {debrief_A} OR {conversation_history_B} / {debrief_B}? "
    "{scenario_notes}",
    Part.PAIRWISE_ANALYSIS: "WHICH {response_A} OR {response_B} ON {transcript_being_analysed}? {scenario_notes}",
}


def write_conversations(path: Path, texts: dict[str, list[str]] | None = None) -> Path:
    """Our JSONL."""
    lines = []
    for name, said in (texts or CONVERSATIONS).items():
        turns = [{"role": "supporter" if i % 2 else "seeker", "text": text} for i, text in enumerate(said)]
        lines.append(json.dumps({"id": name, "turns": turns}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def released_entries(texts: dict[str, list[str]] | None = None) -> list[dict[str, Any]]:
    """The same in the released layout, one entry per supporter turn."""
    entries = []
    for name, said in (texts or CONVERSATIONS).items():
        messages = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(said)]
        for index in range(1, len(said), 2):
            entry = {"conversation_id": name, "conversation_history": messages[:index], "model_response": said[index]}
            entries.append({**entry, "sentence_tactics": [["validation"]]})
    return entries


def write_bench(folder: Path) -> Path:
    """A folder as EQ-Bench 3's authors have it, of three small scenarios."""
    folder.mkdir()
    (folder / "scenario_prompts.txt").write_text(SCENARIOS)
    (folder / "scenario_notes.txt").write_text("# 1\nIt is a small thing.\n")
    for part, text in TEMPLATES.items():
        (folder / f"{part.value}.txt").write_text(text)
    return folder


@dataclass
class AnsweringEndpoint:
    """Answers each call with what `answer` makes of the request's body; a number is a status instead."""

    url: str = ""
    answer: Callable[[dict[str, Any]], str | int] = lambda body: "I hear you. What happened?"
    calls: list[dict[str, Any]] = field(default_factory=list)

    async def respond(self, request: Request) -> Response:
        body = await request.json()
        self.calls.append(body)
        said = self.answer(body)
        if isinstance(said, int):
            return JSONResponse({"error": "as told"}, said, headers={"Retry-After": "0"})
        return JSONResponse({"choices": [{"message": {"role": "assistant", "content": said}}]})


@cache
def _shipped() -> tuple[Any, Any]:
    from reward_servers.empathy.scorer import EmpathyScorer
    from reward_servers.tactics.encoder_tagger import EncoderTagger

    return EncoderTagger.load(), EmpathyScorer.load()


def mark_directly(requests: Sequence[ScoreRequest]) -> list[Score]:
    """The shipped tagger and scorer in this process: what the reward servers compute, without Ray."""
    tagger, scorer = _shipped()
    scores = []
    for request, empathy in zip(requests, scorer.score(requests), strict=True):
        sentences = split_sentences(request.response)
        probabilities = tagger.tag([sentences])[0]
        versions = {TAGGER: tagger.version, SCORER: scorer.version}
        tactics = tagger.decide(probabilities)
        scores.append(Score(request.id, tuple(sentences), tactics, (), empathy, empathy.aggregated, versions))
    return scores
