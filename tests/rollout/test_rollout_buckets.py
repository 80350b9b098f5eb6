"""Weights survive the way through byte buckets bit for bit, whatever their dtype, shape and order."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.weight_sync import WeightBucket, pack, unpack

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.int64, torch.bool)


@st.composite
def named_tensors(draw: st.DrawFn) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shapes = draw(st.lists(st.lists(st.integers(0, 7), max_size=3), max_size=8))
    tensors = []
    for i, shape in enumerate(shapes):
        tensor = (torch.randn(shape, generator=generator) * 50).to(draw(st.sampled_from(DTYPES)))
        tensors.append((f"layer.{i}", tensor.T if tensor.dim() == 2 and draw(st.booleans()) else tensor))
    return tensors


def unpacked(buckets: list[WeightBucket]) -> list[tuple[str, torch.Tensor]]:
    return [item for bucket in buckets for item in unpack(bucket)]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@given(tensors=named_tensors(), bucket_bytes=st.integers(1, 2000))
def test_every_tensor_comes_back_bit_for_bit_in_order(
    tensors: list[tuple[str, torch.Tensor]], bucket_bytes: int
) -> None:
    back = unpacked(list(pack(iter(tensors), bucket_bytes)))
    assert [name for name, _ in back] == [name for name, _ in tensors]
    for (_, old), (_, new) in zip(tensors, back, strict=True):
        assert (new.dtype, new.shape, bits(new)) == (old.dtype, old.shape, bits(old))


@given(tensors=named_tensors(), bucket_bytes=st.integers(1, 2000))
def test_a_bucket_is_over_the_limit_only_with_a_single_tensor_of_any_bytes_in_it(
    tensors: list[tuple[str, torch.Tensor]], bucket_bytes: int
) -> None:
    for bucket in pack(iter(tensors), bucket_bytes):
        assert bucket.data.nbytes <= bucket_bytes or sum(meta.nbytes > 0 for meta in bucket.metas) == 1


def test_tensors_are_views_of_memory_that_was_made_read_only() -> None:
    (bucket,) = pack([("a", torch.arange(4, dtype=torch.bfloat16))])
    bucket.data.flags.writeable = False
    ((_, tensor),) = unpack(bucket)
    assert tensor.data_ptr() == bucket.data.ctypes.data
    assert tensor.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_the_array_stays_out_of_the_pickle_so_that_ray_can_share_it() -> None:
    (bucket,) = pack([("a", torch.ones(100_000))], bucket_bytes=2**20)
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(bucket, protocol=5, buffer_callback=buffers.append)
    assert len(head) < 2_000
    assert [buffer.raw().nbytes for buffer in buffers] == [400_000]
    assert np.array_equal(pickle.loads(head, buffers=buffers).data, bucket.data)


def test_a_tensor_that_dies_with_the_next_one_is_already_copied() -> None:
    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        shared = torch.empty(3)
        for i in range(4):
            yield f"p{i}", shared.fill_(i)

    back = dict(unpacked(list(pack(gathered()))))  # type: ignore[arg-type]
    assert {name: tensor.tolist() for name, tensor in back.items()} == {f"p{i}": [float(i)] * 3 for i in range(4)}


def test_a_name_given_twice_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        list(pack([("lm_head.weight", torch.ones(1)), ("lm_head.weight", torch.ones(1))]))
