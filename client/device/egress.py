"""The closed list of the outbox, for people to read."""

from __future__ import annotations

from client.outbox import EGRESS, METRICS

_HEAD = """\
All that may ever leave this device. Every other message is refused on the way out (client/outbox.py).

An update: the model's arrays after training, each with the name, shape and type that the model has, and
these metrics, one number each:"""
_TAIL = """\
No example, no label, no file, no name or address of yourself, no location. Over Flower's SuperLink, the
same arrays and metrics travel in Flower's own messages; beside them those hold a key and random ids."""


def egress_text() -> str:
    """The list, message by message and field by field."""
    parts = [_HEAD, *(f"  {name}" for name in sorted(METRICS)), ""]
    parts.append("Messages of the device service, with all their fields:")
    for message, fields in EGRESS.items():
        parts.append(f"  {message}" + ("" if fields else " (empty)"))
        for name, field in fields.items():
            limit = f"; at most {field.most_bytes:,} bytes" if field.most_bytes else ""
            parts.append(f"    {name:16} {field.tells}{limit}")
    return "\n".join([*parts, "", _TAIL])
