"""Pickles that want to run code, and damaged ones, end in one error; nothing of them is run."""

from __future__ import annotations

import contextlib
import io
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.workloads.inert import ARRAY_NAMES, Named, array, read_inert
from client.workloads.phone_har import read_recordings
from client.workloads.watch import read_by_subject
from scheduler.errors import BadFile

# Protocol 2, as both data sets have it, and the names of numpy 1.
NAMES = {b"numpy._core.multiarray": b"numpy.core.multiarray"}


def pickled(value):
    content = pickle.dumps(value, protocol=2)
    for new, old in NAMES.items():
        content = content.replace(new, old)
    return content


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("reader", [read_recordings, read_by_subject])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (eval, "__builtin__.eval"), (exec, "__builtin__.exec")],
)
@pytest.mark.parametrize("place", [lambda c: c, lambda c: {1: [c]}, lambda c: [[1, (c,)]]])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, reader, function, name, place):
    proof = tmp_path / "ran"
    code = (
        f"touch {proof}"
        if function is os.system
        else f"__import__('pathlib').Path({str(proof)!r}).touch()"
    )
    content = pickle.dumps(place(Calls(function, code)), protocol=2)
    with pytest.raises(
        BadFile, match=f"it asks for {name}, which is no data; nothing of it was run"
    ):
        reader(io.BytesIO(content))
    assert not proof.exists()
    pickle.loads(content)  # the same pickle does run where anybody loads it
    assert proof.exists()


def test_names_that_are_allowed_are_not_called_either():
    content = b"cnumpy\nndarray\n(I99999999999999\nI99999999999999\ntR."
    found = read_inert(io.BytesIO(content), ARRAY_NAMES, lambda value: value)
    assert isinstance(found, Named)
    assert found.args == (99999999999999, 99999999999999)


def test_what_lies_outside_of_the_file_is_not_asked_for():
    with pytest.raises(BadFile, match="refers to something outside"):
        read_inert(io.BytesIO(b"Pname\n."), ARRAY_NAMES, lambda value: value)


@given(
    numbers=st.lists(st.floats(allow_nan=False), min_size=1, max_size=12),
    whole=st.booleans(),
    by_column=st.booleans(),
)
def test_arrays_come_back_as_they_were(numbers, whole, by_column):
    values = np.array([numbers, numbers[::-1]])
    if whole:
        values = np.arange(values.size).reshape(values.shape)
    values = np.asfortranarray(values) if by_column else values
    found = read_inert(io.BytesIO(pickled(values)), ARRAY_NAMES, array)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)


def recordings():
    """A pickle as numpy writes the data of `watch`: an array of one object, which is a dict."""
    content = {
        "X": [np.arange(12.0).reshape(2, 6), np.ones((3, 6))],
        "y": np.array([3, 4]),
        "subject": np.array([1, 9]),
    }
    return pickled(np.array(content, dtype=object))


@given(data=st.data())
def test_a_damaged_pickle_is_bad_or_reads_and_nothing_else(data):
    content = bytearray(recordings())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadFile):
        read_by_subject(io.BytesIO(content))
    with pytest.raises(BadFile):
        read_recordings(io.BytesIO(content))


def test_every_end_that_is_missing_is_noticed():
    content = recordings()
    found = read_by_subject(io.BytesIO(content))
    assert [label for _, label in (*found[1], *found[9])] == [3, 4]
    assert np.array_equal(found[1][0][0], np.arange(12.0).reshape(2, 6))
    for end in range(len(content)):
        with pytest.raises(BadFile):
            read_by_subject(io.BytesIO(content[:end]))
