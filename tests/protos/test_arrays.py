"""Arrays as blobs: every bit and type there and back; nothing else is arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protos.arrays import (
    NAMES,
    decode_arrays,
    encode_arrays,
    forms,
    read_arrays,
    require_arrays,
    write_arrays,
)
from scheduler.errors import BadInput, BadMessage

arrays = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from([name for name in NAMES if name != "complex64"]).flatmap(
        lambda name: hnp.arrays(
            np.dtype(name), hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)
        )
    ),
    max_size=4,
)


@given(arrays)
def test_arrays_arrive_bit_for_bit(tmp_path_factory, given_arrays):
    path = tmp_path_factory.mktemp("arrays") / "blob"
    write_arrays(given_arrays, path)
    assert path.read_bytes() == encode_arrays(given_arrays)
    require_arrays(path)
    for arrived in (decode_arrays(path.read_bytes()), read_arrays(path)):
        assert list(arrived) == sorted(given_arrays)
        for name, value in given_arrays.items():
            got = arrived[name]
            assert isinstance(got, np.ndarray)
            assert (got.dtype, got.shape) == (value.dtype, value.shape)
            assert got.tobytes() == value.tobytes()


def test_views_arrive_as_they_look():
    base = np.arange(12.0).reshape(3, 4)
    views = {"t": base.T, "s": base[::2, ::-1], "f": np.asfortranarray(base)}
    for name, value in decode_arrays(encode_arrays(views)).items():
        assert np.array_equal(value, views[name])


def test_forms():
    assert forms({"a": np.zeros((2, 3), np.float32), "b": np.array(1)}) == [
        ("a", "F32", (2, 3)),
        ("b", "I64", ()),
    ]


@pytest.mark.parametrize("dtype", ["<U3", "O", "M8[s]", "complex128"])
def test_what_cannot_be_sent(dtype):
    with pytest.raises(BadInput, match="'x'"):
        encode_arrays({"x": np.zeros(2, dtype=dtype)})


@given(st.binary(max_size=200))
def test_noise_is_refused(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "blob"
    path.write_bytes(noise)
    for read in (
        lambda: decode_arrays(noise),
        lambda: read_arrays(path),
        lambda: require_arrays(path),
    ):
        with pytest.raises(BadMessage):
            read()
