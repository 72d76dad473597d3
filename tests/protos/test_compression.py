from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.arrays import encode_arrays
from protos.compression import (
    Compression,
    Method,
    compress,
    decode_update,
    decompress,
    each_update_array,
    parse_compression,
)
from scheduler.errors import BadInput, BadMessage

INT8, TOP = Compression(method=Method.INT8), Compression(method=Method.TOP_K, share=0.1)
BOTH = pytest.mark.parametrize("how", [INT8, TOP], ids=["int8", "top-k"])


def model(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "w": (scale * generator.normal(size=(40, 30))).astype(np.float32),
        "b": (scale * generator.normal(size=30)).astype(np.float32),
        "half": (scale * generator.normal(size=20)).astype(np.float16),
        "seen": np.array(seed, np.int64),
    }


def trained(base, seed):
    step = model(seed, 0.01)
    return {name: (value + step[name]).astype(value.dtype) for name, value in base.items()}


def far(one, other):
    return max(np.abs(one[name].astype(float) - other[name].astype(float)).max() for name in one)


def test_an_update_that_is_not_compressed_stays_bit_for_bit():
    base = model(0)
    arrays = trained(base, 1) | {"b": np.full(30, np.nan, np.float32)}
    received = decode_update(encode_arrays(arrays), base)
    assert received.keys() == arrays.keys()
    assert all(received[n].tobytes() == a.tobytes() for n, a in arrays.items())
    assert all(received[n].dtype == a.dtype for n, a in arrays.items())


@BOTH
def test_it_takes_fewer_bytes_and_has_the_models_form(how):
    base = model(0)
    arrays = trained(base, 1)
    sent, _ = compress(arrays, base, {}, how)
    blob = encode_arrays(sent)
    assert len(blob) < 0.45 * len(encode_arrays(arrays))
    received = decode_update(blob, base)
    assert {n: (a.shape, a.dtype) for n, a in received.items()} == {
        n: (a.shape, a.dtype) for n, a in arrays.items()
    }
    assert received["seen"] == arrays["seen"]


def test_rounding_loses_at_most_half_a_level():
    base = model(0)
    arrays = trained(base, 1)
    received = decompress(compress(arrays, base, {}, INT8)[0], base)
    change = np.abs(arrays["w"] - base["w"]).max()
    assert np.abs(received["w"] - arrays["w"]).max() <= 0.51 * change / 127 + 1e-6


@BOTH
@given(seeds=st.lists(st.integers(1, 1000), min_size=1, max_size=6))
def test_nothing_is_lost_for_ever(how, seeds):
    """What arrived in all rounds, and what is still owed, is what was trained in all rounds."""
    base = {"w": np.zeros((8, 5))}
    owed, arrived, wanted = {}, np.zeros((8, 5)), np.zeros((8, 5))
    for seed in seeds:
        change = np.random.default_rng(seed).normal(size=(8, 5))
        sent, owed = compress({"w": change}, base, owed, how)
        arrived += decompress(sent, base)["w"]
        wanted += change
    np.testing.assert_allclose(arrived + owed["w"], wanted, atol=1e-9)


@BOTH
def test_what_no_number_fits_is_sent_whole_for_the_coordinator_to_refuse(how):
    base = model(0)
    arrays = trained(base, 1) | {"b": np.full(30, np.inf, np.float32)}
    received = decompress(compress(arrays, base, {}, how)[0], base)
    assert np.isinf(received["b"]).all()


@BOTH
def test_no_change_is_no_change(how):
    base = model(0)
    assert far(decompress(compress(base, base, {}, how)[0], base), base) == 0


@pytest.mark.parametrize(
    "sent",
    [
        {"other": np.zeros(3)},
        {"w#int8": np.zeros((40, 30), np.int8)},
        {"w#int8": np.zeros((40, 30), np.int16), "w#scale": np.ones(1, np.float32)},
        {"w#int8": np.zeros((30, 40), np.int8), "w#scale": np.ones(1, np.float32)},
        {"w#int8": np.zeros((40, 30), np.int8), "w#scale": np.ones(2, np.float32)},
        {"w#place": np.array([1, 1200]), "w#value": np.ones(2, np.float32)},
        {"w#place": np.array([-1, 3]), "w#value": np.ones(2, np.float32)},
        {"w#place": np.array([3, 3]), "w#value": np.ones(2, np.float32)},
        {"w#place": np.array([3]), "w#value": np.ones(2, np.float32)},
        {"w#place": np.array(3), "w#value": np.ones(1, np.float32)},
        {"w": np.ones((40, 30), np.float32), "w#scale": np.ones(1, np.float32)},
        {"seen#int8": np.zeros((), np.int8), "seen#scale": np.ones(1, np.float32)},
        {"w#hash": np.zeros(3)},
    ],
)
def test_what_is_no_compressed_update_is_refused(sent):
    with pytest.raises(BadMessage):
        decompress(sent, model(0))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1, float("nan")])
def test_a_share_is_above_0_and_at_most_1(share):
    with pytest.raises(BadInput):
        Compression(method=Method.TOP_K, share=share)


def test_names_that_could_be_mistaken_are_refused():
    with pytest.raises(BadInput, match="#"):
        compress({"w#int8": np.zeros(2)}, {"w#int8": np.zeros(2)}, {}, INT8)


def test_compression_as_people_write_it():
    assert parse_compression("") is None
    assert parse_compression("int8") == INT8
    assert parse_compression("top-k:0.1") == TOP
    assert parse_compression("top-k") == Compression(method=Method.TOP_K, share=0.01)
    for text in ("zip", "int8:2", "top-k:", "top-k:0", "top-k:x", ":0.1"):
        with pytest.raises(BadInput):
            parse_compression(text)


@pytest.mark.parametrize("how", [None, INT8, TOP], ids=["exact", "int8", "top-k"])
def test_from_files_array_by_array_it_is_the_same(tmp_path, how):
    base = model(0)
    arrays = trained(base, 1)
    sent = arrays if how is None else compress(arrays, base, {}, how)[0]
    (tmp_path / "update").write_bytes(encode_arrays(sent))
    if how is not None:  # an update that was not compressed needs no model
        with pytest.raises(BadMessage):
            dict(each_update_array(tmp_path / "update", tmp_path / "model"))
        (tmp_path / "model").write_bytes(encode_arrays(base))
    found = dict(each_update_array(tmp_path / "update", tmp_path / "model"))
    wanted = decompress(sent, base)
    assert list(found) == list(wanted)
    assert all(found[name].tobytes() == value.tobytes() for name, value in wanted.items())


def test_a_models_own_name_may_have_a_hash(tmp_path):
    base = {"w#int8": np.ones(3, np.float32), "v": np.ones(2)}
    for name in ("update", "model"):
        (tmp_path / name).write_bytes(encode_arrays(base))
    found = dict(each_update_array(tmp_path / "update", tmp_path / "model"))
    assert found.keys() == base.keys()
