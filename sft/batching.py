"""Rows of a batch: right padding or packing, where in it each loss reads, and batches of similar length.

Padding is on the right, so the causal mask alone hides it from every token that counts.

**Packing** puts several sequences into one row. Positions begin at 0 again with each of them, and where they do,
transformers draws a border in the mask: a token sees the tokens of its own sequence before it, and nothing else. So
every hidden state is that of the sequence alone, which `sft.packing.check_packing` tries out on a model before it is
trusted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from sft.emotions import EMOTION_CLASSES, emotion_target
from sft.examples import Loss
from sft.mixing import Draw, MixtureSampler
from sft.strategies import STRATEGIES
from sft.tokens import TokenSequence


@dataclass(frozen=True, slots=True)
class Spots:
    """M places of a batch at which a loss reads a hidden state, and what it should find.

    Attributes:
        rows, columns: (M,) int64. `hidden[rows, columns]` is (M, H).
        targets: (M,) int64, or (M, C) float32 for soft targets and regression.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def pick(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, T, H) -> (M, H)."""
        return hidden[self.rows, self.columns]

    def to(self, device: torch.device) -> Spots:
        return Spots(*(part.to(device, non_blocking=True) for part in (self.rows, self.columns, self.targets)))


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences, padded to T tokens.

    Attributes:
        ids: (B, T) int64.
        attention: (B, T) int64, 1 on tokens and 0 on padding.
        spots: for LM and SAFETY the positions *before* each reply token, with that token as target; for EMOTION
            (M, 27) probabilities; for STRATEGY the index in `STRATEGIES`; for AFFECT (M, 2) valence and arousal.
        positions: (B, T) int64 of packed rows, each token's place in its sequence; None where a row is one sequence.
    """

    ids: torch.Tensor
    attention: torch.Tensor
    spots: Mapping[Loss, Spots]
    positions: torch.Tensor | None = None

    def counts(self) -> dict[Loss, int]:
        """How many items each loss has here."""
        return {loss: len(spots) for loss, spots in self.spots.items()}

    def to(self, device: torch.device) -> Batch:
        moved = {loss: spots.to(device) for loss, spots in self.spots.items()}
        positions = None if self.positions is None else self.positions.to(device)
        ids, attention = self.ids.to(device), self.attention.to(device)
        return replace(self, ids=ids, attention=attention, spots=moved, positions=positions)


class Place(NamedTuple):
    """Where in a batch a sequence begins."""

    row: int
    column: int


def collate(sequences: Sequence[TokenSequence], pad_id: int, multiple_of: int = 1) -> Batch:
    """One batch of B sequences.

    Args:
        multiple_of: T is rounded up to a multiple of it; 8 suits tensor cores.

    Raises:
        ValueError: no sequence.
    """
    if not sequences:
        raise ValueError("a batch needs at least one sequence")
    return _lay_out(sequences, [Place(row, 0) for row in range(len(sequences))], pad_id, multiple_of)


def collate_packed(sequences: Sequence[TokenSequence], width: int, pad_id: int, multiple_of: int = 1) -> Batch:
    """The sequences in as few rows of about `width` tokens as `pack` needs; spots in the order of the sequences.

    What is left of a row is padded as one more sequence, which nothing reads.

    Raises:
        ValueError: no sequence.
    """
    if not sequences:
        raise ValueError("a batch needs at least one sequence")
    places = pack([len(sequence.ids) for sequence in sequences], width)
    batch = _lay_out(sequences, places, pad_id, multiple_of)
    positions = torch.zeros_like(batch.ids)
    ends: dict[int, int] = {}
    for place, sequence in zip(places, sequences, strict=True):
        end = place.column + len(sequence.ids)
        positions[place.row, place.column : end] = torch.arange(len(sequence.ids))
        ends[place.row] = max(ends.get(place.row, 0), end)
    for row, end in ends.items():
        positions[row, end:] = torch.arange(positions.shape[1] - end)
    return replace(batch, positions=positions)


def pack(lengths: Sequence[int], width: int) -> list[Place]:
    """Where each sequence goes, first-fit decreasing: the longest first, each into the first row with room for it.

    A row is at most `width` tokens, or the longest sequence where that is more. It needs at most 11/9 of the fewest
    rows possible, and one (Johnson 1973).
    """
    width = max(width, *lengths)
    filled: list[int] = []
    places = [Place(0, 0)] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        row = next((r for r, used in enumerate(filled) if used + lengths[number] <= width), len(filled))
        if row == len(filled):
            filled.append(0)
        places[number] = Place(row, filled[row])
        filled[row] += lengths[number]
    return places


def _lay_out(sequences: Sequence[TokenSequence], places: Sequence[Place], pad_id: int, multiple_of: int) -> Batch:
    longest = max(place.column + len(sequence.ids) for place, sequence in zip(places, sequences, strict=True))
    width = -(-longest // multiple_of) * multiple_of
    ids = torch.full((max(place.row for place in places) + 1, width), pad_id)  # (B, T)
    attention = torch.zeros_like(ids)
    for (row, column), sequence in zip(places, sequences, strict=True):
        ids[row, column : column + len(sequence.ids)] = torch.tensor(sequence.ids)
        attention[row, column : column + len(sequence.ids)] = 1
    return Batch(ids, attention, {loss: _spots(loss, sequences, places) for loss in Loss})


def check_same_tokens(student: Spots, teacher: torch.Tensor) -> None:
    """The teacher reads the same reply tokens, (M,), in the same order as the student.

    Raises:
        ValueError: it does not, so the two distributions would be about different tokens.
    """
    if not torch.equal(student.targets, teacher):
        raise ValueError(f"the teacher reads {len(teacher)} reply tokens, which are not the student's {len(student)}")


def _spots(loss: Loss, sequences: Sequence[TokenSequence], places: Sequence[Place]) -> Spots:
    found = [
        (place.row, place.column + column, target)
        for place, sequence in zip(places, sequences, strict=True)
        if loss in sequence.losses
        for column, target in _reads(loss, sequence)
    ]
    rows, columns = (torch.tensor([entry[part] for entry in found], dtype=torch.int64) for part in (0, 1))
    soft = {Loss.EMOTION: EMOTION_CLASSES, Loss.AFFECT: 2}.get(loss)
    dtype, shape = (torch.int64, (-1,)) if soft is None else (torch.float32, (-1, soft))
    return Spots(rows, columns, torch.tensor([entry[2] for entry in found], dtype=dtype).reshape(shape))


def _reads(loss: Loss, sequence: TokenSequence) -> Iterable[tuple[int, Any]]:
    """(column, target) of every item of one sequence."""
    if loss is Loss.EMOTION:
        return [(read.position, emotion_target(read.emotions)) for read in sequence.emotions]
    if loss is Loss.STRATEGY:
        return [(read.position, STRATEGIES.index(read.strategy)) for read in sequence.strategies]
    if loss is Loss.AFFECT:
        return [(read.position, (read.affect.valence, read.affect.arousal)) for read in sequence.affects]
    return [(place - 1, sequence.ids[place]) for reply in sequence.replies for place in range(reply.start, reply.stop)]


class LengthGroups:
    """Batches of similar length, from windows of a mixture's draws.

    A window is `window_batches * batch_size` draws in a row. They are sorted by length and cut into batches, and the
    batches are shuffled by a seed of their own. So within each window the shares of the sources are those of the
    sampler, and every draw is used exactly once. The sampler's counts run ahead by what is left of the window.
    """

    def __init__(
        self, sampler: MixtureSampler, length: Callable[[Draw], int], batch_size: int, window_batches: int = 32
    ) -> None:
        if batch_size < 1 or window_batches < 1:
            raise ValueError(f"batch_size {batch_size} and window_batches {window_batches} must be at least 1")
        self._sampler = sampler
        self._length = length
        self._batch_size = batch_size
        self._window_batches = window_batches
        self._before_window = sampler.state_dict()
        self._window: list[list[Draw]] = []
        self._given = 0

    def next_batch(self) -> list[Draw]:
        """`batch_size` draws; endless."""
        if self._given == len(self._window):
            self._before_window = self._sampler.state_dict()
            self._window, self._given = self._draw_window(), 0
        self._given += 1
        return self._window[self._given - 1]

    def state_dict(self) -> dict[str, Any]:
        return {
            "sampler": self._before_window,
            "given": self._given,
            "grouping": [self._batch_size, self._window_batches],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`: the window is drawn again, and what was given of it is skipped.

        Raises:
            MixingError: it belongs to another mixture.
            ValueError: it belongs to other batch or window sizes.
        """
        grouping = [self._batch_size, self._window_batches]
        if list(state["grouping"]) != grouping:
            raise ValueError(f"batch and window sizes are {grouping}, but {state['grouping']} in the checkpoint")
        self._sampler.load_state_dict(state["sampler"])
        self._before_window = self._sampler.state_dict()
        self._given = int(state["given"])
        self._window = self._draw_window() if self._given else []

    def _draw_window(self) -> list[list[Draw]]:
        drawn = sum(self._sampler.drawn.values())
        draws = [self._sampler.draw() for _ in range(self._batch_size * self._window_batches)]
        draws.sort(key=self._length)
        batches = [draws[start : start + self._batch_size] for start in range(0, len(draws), self._batch_size)]
        return random.Random(f"{self._sampler.seed}/{drawn}").sample(batches, len(batches))
