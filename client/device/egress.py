"""The closed list of the outbox, for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from client.outbox import EGRESS, FLOWER_EGRESS, METRICS, STANDING, Field

_HEAD = """\
All that may ever leave this device. Every other message is refused on the way out (client/outbox.py).

An update: the model's arrays after training, each with the name, shape and type that the model has, and
these metrics, one number each:"""
_STANDING = """\
To a coordinator on Flower's SuperLink that asks how things stand, these, one number each:"""
_TAIL = """\
No example, no label, no file, no name or address of yourself, no location."""


def egress_text() -> str:
    """The list, message by message and field by field."""
    parts = [_HEAD, *(f"  {name}" for name in sorted(METRICS)), ""]
    parts += [_STANDING, *(f"  {name}" for name in sorted(STANDING)), ""]
    parts += _messages("the device service", EGRESS)
    parts += ["", *_messages("Flower's SuperLink", FLOWER_EGRESS)]
    return "\n".join([*parts, "", _TAIL])


def _messages(fabric: str, egress: Mapping[str, Mapping[str, Field]]) -> Iterator[str]:
    yield f"Messages over {fabric}, with all their fields:"
    for message, fields in egress.items():
        yield f"  {message}" + ("" if fields else " (empty)")
        for name, field in fields.items():
            limit = f"; at most {field.most_bytes:,} bytes" if field.most_bytes else ""
            yield f"    {name:24} {field.tells}{limit}"
