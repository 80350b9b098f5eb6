"""Weights on their way from the learner to the rollout workers: a few large byte arrays in Ray's object store.

    learner rank 0                              object store of each node              every rollout worker
    pack(engine.weights()) -> ray.put(bucket) -> one shared, read-only copy per node -> unpack(ray.get(ref)): views

A bucket is one numpy array of bytes plus a table of what lies where. Ray keeps such an array outside the pickle, so all
workers of a node read the same memory and nothing is copied until vLLM copies it into its own parameters.

Invariants:
- `unpack` of every bucket of `pack(tensors)` gives each name once, in order, with the same dtype, shape and bits.
- A tensor is copied into its bucket before the next one is asked for, so `tensors` may be a generator whose items live
  only until the next step (a ZeRO-3 gather).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rl.config import LoraConfig

if TYPE_CHECKING:
    import ray

BUCKET_BYTES = 256 * 2**20
_ALIGNMENT = 64  # bytes: any dtype may be viewed there, and it is a cache line


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """Where one tensor lies in its bucket. `dtype` is torch's name without the `torch.`; sizes are in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True, eq=False)
class WeightBucket:
    """Some tensors in one byte array. `data`: (bytes,) uint8, read-only once it has been through Ray."""

    metas: tuple[TensorMeta, ...]
    data: np.ndarray


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """One policy version on its way to the workers.

    Attributes:
        version: number of optimizer steps behind these weights.
        buckets: references to `WeightBucket`s. Whoever made them keeps them alive until every worker has read them.
        lora: None for full weights under Hugging Face names; else the adapter's shape, and the buckets hold the tensors
            of peft's `get_peft_model_state_dict`.
    """

    version: int
    buckets: tuple[ray.ObjectRef, ...]
    lora: LoraConfig | None = None


def pack(tensors: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int = BUCKET_BYTES) -> Iterator[WeightBucket]:
    """Copy named tensors (any device, any strides) into buckets of at most `bucket_bytes`.

    A tensor that is larger than that gets a bucket of its own. No tensors give no bucket.

    Raises:
        ValueError: `bucket_bytes` is not positive, or a name occurs twice.
    """
    if bucket_bytes <= 0:
        raise ValueError(f"bucket_bytes must be positive, got {bucket_bytes}")
    seen: set[str] = set()
    open_bucket = _OpenBucket(bucket_bytes)
    for name, tensor in tensors:
        if name in seen:
            raise ValueError(f"weight {name!r} was given twice; tied weights must appear once")
        seen.add(name)
        if open_bucket.metas and not open_bucket.has_room(tensor.nbytes):
            yield open_bucket.close()
            open_bucket = _OpenBucket(bucket_bytes)
        open_bucket.add(name, tensor)
    if open_bucket.metas:
        yield open_bucket.close()


def unpack(bucket: WeightBucket) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a bucket, as CPU views of its memory. Never write to them: other processes share it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        data = torch.from_numpy(bucket.data)
    for meta in bucket.metas:
        raw = data[meta.offset : meta.offset + meta.nbytes]
        yield meta.name, raw.view(getattr(torch, meta.dtype)).reshape(meta.shape)


class _OpenBucket:
    """A bucket being filled."""

    def __init__(self, size: int) -> None:
        self.metas: list[TensorMeta] = []
        self._data = np.zeros(size, dtype=np.uint8)  # pages cost nothing until they are written
        self._used = 0

    def _next_offset(self) -> int:
        return math.ceil(self._used / _ALIGNMENT) * _ALIGNMENT

    def has_room(self, nbytes: int) -> bool:
        return self._next_offset() + nbytes <= self._data.size

    def add(self, name: str, tensor: torch.Tensor) -> None:
        offset, nbytes = self._next_offset(), tensor.nbytes
        if not self.has_room(nbytes):  # only for the first tensor, which is larger than a bucket
            self._data = np.zeros(nbytes, dtype=np.uint8)
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        torch.from_numpy(self._data[offset : offset + nbytes]).copy_(flat)
        dtype = str(tensor.dtype).removeprefix("torch.")
        self.metas.append(TensorMeta(name, dtype, tuple(tensor.shape), offset, nbytes))
        self._used = offset + nbytes

    def close(self) -> WeightBucket:
        return WeightBucket(tuple(self.metas), self._data[: self._used])
