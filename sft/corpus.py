"""The examples of a run: which sources it reads, which losses they feed here, and their token sequences.

A loss whose lambda is 0 is taken off every example, and an example that feeds nothing then is not even tokenised: so a
loss that is off costs neither memory nor time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from dialogue.loaders import DataError
from sft.config import ConfigError, DataConfig, SafetyScope, SftConfig
from sft.examples import Example, Loss, Source, Split
from sft.mixing import Draw
from sft.readers.empathetic_dialogues import read_empathetic_dialogues
from sft.readers.esconv import read_esconv
from sft.readers.goemotions import read_goemotions
from sft.readers.own import SHIPPED, read_own
from sft.safety_rules import rules_apply
from sft.tokens import ChatTokens, TokenSequence
from sft.weights import LossWeights

_log = logging.getLogger(__name__)
_READERS = {
    Source.GOEMOTIONS: read_goemotions,
    Source.ESCONV: read_esconv,
    Source.EMPATHETIC_DIALOGUES: read_empathetic_dialogues,
}

T = TypeVar("T")
Examples = Mapping[Source, Sequence[Example]]


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is drawn from.

    Attributes:
        sequences: of each source, in order.
        too_long: replies left out because they do not fit `data.max_tokens` even alone.
    """

    sequences: Mapping[Source, Sequence[TokenSequence]]
    too_long: int

    @property
    def sizes(self) -> dict[Source, int]:
        return {source: len(rows) for source, rows in self.sequences.items()}

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for rows in self.sequences.values() for row in rows)

    def row(self, draw: Draw) -> TokenSequence:
        return self.sequences[draw.source][draw.place]

    def feeds(self) -> set[Loss]:
        return {loss for rows in self.sequences.values() for row in rows for loss in row.losses}


def read_examples(config: SftConfig, split: Split) -> dict[Source, list[Example]]:
    """The examples of one split that feed a loss that is on, by source.

    Raises:
        ConfigError: no source is named.
        DataError: a source cannot be read, or nothing in it feeds a loss that is on.
    """
    places = source_places(config.data)
    if not places and not config.data.own:
        raise ConfigError("data: no source is named; set data.folder, data.own=shipped or one of the three sets")
    found = {source: list(_READERS[source](place, split).examples) for source, place in places.items()}
    if config.data.own:
        files = SHIPPED if config.data.own == "shipped" else (Path(config.data.own),)
        found[Source.OWN] = [example for file in files for example in read_own(file, split).examples]
    kept = {}
    for source, examples in found.items():
        chosen = _spread(examples, min(config.data.max_examples or len(examples), len(examples)))
        fed = [fitted for example in chosen if (fitted := _for_losses(example, config)) is not None]
        if fed:
            kept[source] = fed
        elif chosen:
            _log.warning("%s: none of %d examples feeds a loss that is on; it is not used", source, len(chosen))
    if not kept:
        lacking = " (examples of your own are train and valid alone)" if split is Split.TEST and not places else ""
        raise DataError(f"no {split.value} example feeds a loss whose lambda is above 0{lacking}")
    return kept


def source_places(data: DataConfig) -> dict[Source, str]:
    """Where each of the three sets is; those that are not named are left out.

    Raises:
        ConfigError: `data.folder` holds none of them.
    """
    named: dict[Source, str] = {source: getattr(data, source.value) for source in _READERS}
    if data.folder:
        folder = Path(data.folder).expanduser()
        inside = {source: str(folder / source.value) for source in _READERS if (folder / source.value).is_dir()}
        if not inside:
            wanted = ", ".join(f"{source.value}/" for source in _READERS)
            raise ConfigError(f"data.folder={data.folder}: no folder with any of {wanted}")
        named = {source: place or inside.get(source, "") for source, place in named.items()}
    return {source: place for source, place in named.items() if place}


def tokenise(examples: Examples, chat: ChatTokens) -> Corpus:
    """Raises DataError where the template refuses a conversation or no sequence is short enough."""
    sequences: dict[Source, list[TokenSequence]] = {}
    too_long = 0
    for source, several in examples.items():
        said = [turn.text for example in several for turn in example.conversation.turns]
        chat.control.warn_of(said, source.value)
        done = [chat.tokenise(example) for example in several]
        too_long += sum(tokenised.too_long for tokenised in done)
        rows = [row for tokenised in done for row in tokenised.sequences]
        if rows:
            sequences[source] = rows
    if not sequences:
        raise DataError(f"none of {too_long} turns fits data.max_tokens: raise it")
    return Corpus(sequences, too_long)


def check_every_loss_is_fed(corpus: Corpus, losses: LossWeights) -> None:
    """Raises ConfigError where a lambda is above 0 and no example feeds it: it would silently do nothing."""
    starved = [loss.value for loss in Loss if losses.of(loss) and loss not in corpus.feeds()]
    if starved:
        raise ConfigError(
            f"no training example feeds {', '.join(starved)}: set losses.{starved[0]}=0, or name data that has such "
            "labels" + (" (safety.scope=every reads all replies)" if Loss.SAFETY.value in starved else "")
        )


def dev_rows(corpus: Corpus, limit: int) -> list[TokenSequence]:
    """At most about `limit` sequences, evenly spread over each source, at least one of each; 0 for all."""
    total = sum(corpus.sizes.values())
    rows: list[TokenSequence] = []
    for several in corpus.sequences.values():
        wanted = len(several) if not limit or limit >= total else max(1, limit * len(several) // total)
        rows.extend(_spread(several, wanted))
    return rows


def rows_of_each(corpus: Corpus, limit: int) -> list[TokenSequence]:
    """At most `limit` sequences of each source, evenly spread over it."""
    return [row for several in corpus.sequences.values() for row in _spread(several, min(limit, len(several)))]


def _spread(several: Sequence[T], wanted: int) -> list[T]:
    """So many of them from the beginning to the end: a file may be ordered by its labels."""
    return [several[number * len(several) // wanted] for number in range(wanted)]


def _for_losses(example: Example, config: SftConfig) -> Example | None:
    """The example with the losses that are on, and SAFETY where the rules apply; None where it feeds nothing."""
    losses = {loss for loss in example.losses if config.losses.of(loss)}
    every = config.safety.scope is SafetyScope.every
    has_reply = len(example.conversation.turns) > 1
    if config.losses.safety and has_reply and (every or rules_apply(example.conversation)):
        losses.add(Loss.SAFETY)
    return replace(example, losses=frozenset(losses)) if losses else None
