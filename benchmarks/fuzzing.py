"""Bad inputs from good ones: seeded, so that each can be made again."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

NASTY = (
    b"",
    b"\0",
    b"\xff" * 10,
    b"\x80" * 20,
    struct.pack("<Q", 2**63 - 1),
    struct.pack("<d", float("nan")),
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # the largest varint
    b"\x0a\xff\xff\xff\xff\x0f",  # a field that says it has 4 GB
    b"\x0b" * 200,  # groups in groups, which protobuf follows so far only
)

_Kind = FieldDescriptor
VALUES: dict[int, tuple[Any, ...]] = {
    _Kind.CPPTYPE_BOOL: (False, True),
    _Kind.CPPTYPE_ENUM: (0, 1, 99, -1),
    _Kind.CPPTYPE_DOUBLE: (0.0, -1.0, 1e308, float("nan"), float("inf"), float("-inf")),
    _Kind.CPPTYPE_INT64: (0, -1, 2**63 - 1, -(2**63)),
    _Kind.CPPTYPE_UINT32: (0, 1, 2, 2**32 - 1),
    _Kind.CPPTYPE_UINT64: (0, 1, 2**20, 2**31, 2**63 - 1, 2**63, 2**64 - 1),
    _Kind.CPPTYPE_STRING: ("", "x", "x" * 10_000, "\0", "\u202e", "\U0010ffff"),
}


def mutated(good: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """`good` after one to four changes; `others` are spliced in now and then."""
    data = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        rng.choice(_CHANGES)(data, others, rng)
    return bytes(data)


def bad_message(good: Sequence[Message], rng: random.Random) -> bytes:
    """One of the messages, changed in its fields or in its bytes."""
    if rng.randrange(2):
        return altered(rng.choice(good), rng)
    return bad_input([message.SerializeToString() for message in good], rng)


def bad_input(good: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the good inputs, changed; one in ten is plain noise."""
    if rng.randrange(10) == 0:
        return rng.randbytes(rng.choice((0, 1, 7, 60, 400)))
    return mutated(rng.choice(good), good, rng)


def altered(good: Message, rng: random.Random) -> bytes:
    """A message that can be read, with one to three of its fields set to something else."""
    message = type(good)()
    message.CopyFrom(good)
    for _ in range(rng.randint(1, 3)):
        _set(message, rng)
    return message.SerializeToString()


def _set(message: Message, rng: random.Random) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = rng.choice(fields)
    if field.message_type is not None and not field.is_repeated:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _set(inner, rng)
    elif field.message_type is not None or (field.is_repeated and rng.randrange(2)):
        message.ClearField(field.name)
    elif field.is_repeated:
        getattr(message, field.name).append(_value(field, rng))
    else:
        setattr(message, field.name, _value(field, rng))


def _value(field: FieldDescriptor, rng: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice((*NASTY, rng.randbytes(16), rng.randbytes(32)))
    return rng.choice(VALUES[field.cpp_type])


def reordered(good: Sequence[Message], rng: random.Random) -> list[bytes]:
    """A stream of messages with some lost, repeated, swapped or changed, or cut off."""
    whole = [message.SerializeToString() for message in good]
    sent = list(whole)
    for _ in range(rng.randint(1, 3)):
        if not sent:
            break
        at = rng.randrange(len(sent))
        kind = rng.randrange(6)
        if kind == 0:
            del sent[at]
        elif kind == 1:
            sent.insert(rng.randrange(len(sent) + 1), sent[at])
        elif kind == 2:
            other = rng.randrange(len(sent))
            sent[at], sent[other] = sent[other], sent[at]
        elif kind == 3:
            sent[at] = mutated(sent[at], whole, rng)
        elif kind == 4:
            sent[at] = altered(good[min(at, len(good) - 1)], rng)
        else:
            del sent[at:]
    return sent


def _flip(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _remove(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.randint(1, 16)]


def _repeat(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.randint(1, 64)]
    data[start:start] = piece * rng.randint(1, 5)


def _insert(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.choice(NASTY)


def _overwrite(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    piece = rng.choice(NASTY)
    data[start : start + len(piece)] = piece


def _splice(data: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    other = rng.choice(others)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


_CHANGES: tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    _flip,
    _flip,
    _cut,
    _remove,
    _repeat,
    _insert,
    _overwrite,
    _splice,
)
