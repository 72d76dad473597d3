"""Blobs in chunks: whatever the cuts and interruptions, the same bytes arrive, and nothing else does."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.blobs import Arriving, Blob, blob_of, chunks
from protos.device_pb2 import Chunk
from scheduler.errors import BadMessage

contents = st.binary(min_size=1, max_size=300)


def arrive(blob, sent) -> None:
    arriving = Arriving(blob)
    for chunk in sent:
        arriving.take(chunk)
    arriving.finish()


@given(contents, st.integers(1, 50), st.integers(1, 50), st.data())
def test_an_interrupted_blob_goes_on_and_arrives(content, first_cut, second_cut, data):
    file = io.BytesIO(content)
    blob = blob_of(file)
    have = b""
    arriving = Arriving(blob)
    for chunk in list(chunks(file, chunk_bytes=first_cut))[: data.draw(st.integers(0, 5))]:
        have += arriving.take(chunk)
    again = Arriving(blob, [have[:7], have[7:]])
    assert again.offset_bytes == len(have)
    for chunk in chunks(file, offset_bytes=len(have), chunk_bytes=second_cut):
        have += again.take(chunk)
    again.finish()
    assert have == content


@given(contents, st.integers(1, 40), st.data())
def test_no_changed_blob_arrives(content, cut, data):
    file = io.BytesIO(content)
    blob = blob_of(file)
    sent = list(chunks(file, chunk_bytes=cut))
    index = data.draw(st.integers(0, len(sent) - 1))
    kind = data.draw(st.sampled_from(["lost", "twice", "flipped", "moved", "resized"]))
    chunk = sent[index]
    if kind == "lost":
        del sent[index]
    elif kind == "twice":
        sent.insert(index, chunk)
    elif kind == "moved":
        chunk.offset_bytes += data.draw(st.integers(1, 2**40))
    elif kind == "resized":
        blob = Blob(digest=blob.digest, size_bytes=blob.size_bytes + 1)
    else:
        where = data.draw(st.integers(0, len(chunk.data) - 1))
        flipped = bytearray(chunk.data)
        flipped[where] ^= 1 << data.draw(st.integers(0, 7))
        chunk.data = bytes(flipped)
    with pytest.raises(BadMessage):
        arrive(blob, sent)


def test_a_chunk_whose_checksum_was_made_to_fit_is_found_by_the_digest():
    blob = blob_of(io.BytesIO(b"right"))
    (wrong,) = chunks(io.BytesIO(b"wrong"))
    arriving = Arriving(blob)
    arriving.take(wrong)
    with pytest.raises(BadMessage, match="digest") as caught:
        arriving.finish()
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize("size", [0, 11])
def test_chunks_are_neither_empty_nor_too_large(size):
    arriving = Arriving(Blob(digest=bytes(32), size_bytes=100), chunk_bytes=10)
    with pytest.raises(BadMessage, match=f"holds {size} bytes"):
        arriving.take(Chunk(data=bytes(size)))
    assert arriving.offset_bytes == 0


@pytest.mark.parametrize(("digest", "size"), [(bytes(31), 1), (bytes(33), 1), (bytes(32), 0)])
def test_what_is_no_blob(digest, size):
    with pytest.raises(BadMessage):
        Blob(digest=digest, size_bytes=size)


def test_a_refused_chunk_can_be_sent_anew():
    file = io.BytesIO(b"some bytes")
    arriving = Arriving(blob_of(file))
    (chunk,) = chunks(file)
    damaged = Chunk(offset_bytes=0, data=b"some bytez", crc32=chunk.crc32)
    with pytest.raises(BadMessage):
        arriving.take(damaged)
    arriving.take(chunk)
    arriving.finish()
