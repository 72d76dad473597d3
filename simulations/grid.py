"""The simulated fleet as a Flower Grid: messages travel in virtual time, training waits until it is needed.

When a reply comes is known from plans and links alone, so a device's training is computed only when the
coordinator pulls its reply, together with that of others, and never for a reply that nobody wants.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.app.message_type import MessageType
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from server.grid import OwnGrid
from server.replies import NUMBER_BYTES, content_bytes, metrics_of
from server.reports import Reports

from .checkpoint import Fabric
from .clock import VirtualClock
from .departures import Departures
from .identity import be_server
from .journey import End, Journey, Phase, arrives_s
from .ledger import Settled
from .presence import Presence
from .traffic import Traffic
from .training import Done, Job, Work

_LOST = {
    End.WENT_OFFLINE: "the device went offline",
    End.DROPPED_OUT: "the device dropped out",
    End.BATTERY_EMPTY: "the device's battery was empty",
}


class SimulatedGrid(OwnGrid):
    """A Grid whose nodes are the devices of a fleet.

    `work` trains, and `context_of` gives the context of the device in a row of the fleet. `numbers` is how
    many metrics an update has: its size is known before it is there. `slots` is how many messages the
    coordinator's link carries at a time. Where replies are pulled one by one, up to `batch` devices train at
    once: those whose replies come next. `resume` is the fleet after a round of a
    run that was stopped. `on_reply` is told of each reply's node when it is pulled, `on_failure` of what
    stays in the log of a device that failed.
    """

    def __init__(
        self,
        clock: VirtualClock,
        departures: Departures,
        work: Work,
        context_of: Callable[[int], Context],
        *,
        numbers: int,
        slots: int | None = None,
        batch: int = 1,
        on_reply: Callable[[int], None] = lambda _: None,
        on_failure: Callable[[int, str], None] = lambda *_: None,
        resume: Fabric | None = None,
    ) -> None:
        self._clock, self._departures, self._work = clock, departures, work
        self._context_of, self._on_failure = context_of, on_failure
        self._fleet = departures.fleet
        self._numbers, self._on_reply = numbers, on_reply
        self._sent = 0
        self._batch, self._done = batch, dict[int, Done]()
        self._arrived: dict[int, Journey] = {}
        self._messages: dict[int, Message] = {}
        self._settled: list[Settled] = []
        self.online = 0  # devices that were there when `reports` was asked last
        self._presence = Presence(self._fleet)
        be_server()
        if resume is not None:
            self._take_up(resume)
        under_way = resume.journeys if resume is not None else ()
        self._traffic = Traffic(clock, self._on_end, slots, under_way)

    # What the round engine asks of a fabric.

    def now_s(self) -> float:
        """Virtual seconds since the run began."""
        return self._clock.now_s()

    def wait(self, seconds: float, replies: int) -> None:
        """Let time pass until so many replies have come, at most so long.

        A device that is lost counts once the coordinator has noticed. Endless waiting ends when nothing
        can come any more.
        """
        self._clock.run(self.now_s() + seconds, lambda: len(self._arrived) >= replies)

    def reports(self) -> Reports:
        """What the devices that are online now say of themselves."""
        reports = self._presence.reports(self.now_s())
        self.online = len(reports)
        return reports

    def settled(self) -> tuple[Settled, ...]:
        """Journeys whose replies were pulled, or that were withdrawn, since this was asked last."""
        settled, self._settled = tuple(self._settled), []
        return settled

    def cut_off(self) -> tuple[Settled, ...]:
        """Journeys that the end of the run leaves without a reply that was pulled."""
        left = (*self._arrived.values(), *self._traffic.under_way)
        return tuple(Settled(journey=j) for j in sorted(left, key=lambda j: j.number))

    def withdraw(self, message_ids: Sequence[str]) -> None:
        """No replies are wanted any more for these messages: whoever is still at work on one stops."""
        for number in map(int, message_ids):
            journey = self._arrived.pop(number, None)
            if journey is None:
                journey = self._traffic.withdraw(number)
                self._note_battery(journey)
            del self._messages[number]
            self._done.pop(number, None)
            self._settled.append(Settled(journey=journey))

    def fabric(self) -> Fabric:
        """All that the fleet needs to go on from here."""
        contents = {id(m.content): m.content for m in self._messages.values()}
        index = {identity: position for position, identity in enumerate(contents)}
        return Fabric(
            now_s=self.now_s(),
            sent=self._sent,
            journeys=tuple(self._traffic.under_way),
            arrived=tuple(self._arrived.values()),
            contents=tuple(recorddict_to_proto(c).SerializeToString() for c in contents.values()),
            content={number: index[id(m.content)] for number, m in self._messages.items()},
            batteries=self._presence.batteries(),
        )

    # Flower's Grid.

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all devices, online or not."""
        return map(int, self._fleet.node)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages on their way, now."""
        sent = list(messages)
        if not sent:
            return []
        first, now_s = self._sent, self.now_s()
        rows = self._fleet.rows(np.array([m.metadata.dst_node_id for m in sent], dtype=np.uint64))
        contents = {id(m.content): m.content for m in sent}  # most often one for all
        sizes = {key: _sizes(content, self._numbers) for key, content in contents.items()}
        journeys = self._departures.journeys(
            rows,
            first=first,
            round_number=_round_of(sent[0]),
            now_s=now_s,
            bytes_down=[sizes[id(m.content)][0] for m in sent],
            bytes_up=[sizes[id(m.content)][1] for m in sent],
            level_j=self._presence.levels(rows, now_s),
        )
        for journey, message in zip(journeys, sent, strict=True):
            _identify(message, str(journey.number))
            self._messages[journey.number] = message
            self._traffic.start(journey)
        self._sent += len(sent)
        return [str(journey.number) for journey in journeys]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have come, each once, in the order in which they came."""
        asked = set(map(int, message_ids))
        due = [journey for number, journey in self._arrived.items() if number in asked]
        missing = [j for j in due if j.end is End.ARRIVED and j.number not in self._done]
        if missing:
            self._train([*missing, *self._soon(self._batch - len(missing), missing)])
        return [self._settle(journey, self._done.pop(journey.number, None)) for journey in due]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, and take the replies that come in time; nobody wants the others."""
        ids = list(self.push_messages(messages))
        self.wait(math.inf if timeout is None else timeout, len(ids))
        replies = list(self.pull_messages(ids))
        self.withdraw([i for i in ids if int(i) in self._messages])
        return replies

    # Inside.

    def _train(self, journeys: Iterable[Journey]) -> None:
        jobs = {
            j.number: Job(message=self._messages[j.number], context=self._context_of(j.row))
            for j in journeys
        }
        self._done |= zip(jobs, self._work(list(jobs.values())), strict=True)

    def _soon(self, most: int, after: list[Journey]) -> list[Journey]:
        """Journeys whose updates will be asked for after some, as far as can be told."""
        if most <= 0:
            return []
        under_way = [j for j in self._traffic.under_way if arrives_s(j) < math.inf]
        arrived = [j for j in self._arrived.values() if j.end is End.ARRIVED]
        soon = [*arrived, *sorted(under_way, key=arrives_s)]
        known = self._done.keys() | {j.number for j in after}
        return [j for j in soon if j.number not in known][:most]

    def _on_end(self, journey: Journey) -> None:
        self._arrived[journey.number] = journey
        self._note_battery(journey)

    def _note_battery(self, journey: Journey) -> None:
        at_s = journey.began_s[Phase.SILENT]
        ended_s = self.now_s() if math.isnan(at_s) else at_s
        self._presence.note(journey.row, journey.level_j, ended_s)

    def _settle(self, journey: Journey, done: Done | None) -> Message:
        del self._arrived[journey.number]
        message = self._messages.pop(journey.number)
        if done is None:
            lost = Error(ErrorCode.NODE_UNAVAILABLE, _LOST[journey.end])
            settled, reply = Settled(journey=journey), Message(lost, reply_to=message)
        else:
            reply = done.reply
            metrics = metrics_of(reply) if reply.has_content() else {}
            settled = Settled(journey=journey, failed=reply.has_error(), metrics=metrics)
        _identify(reply, f"{journey.number}-reply")
        self._settled.append(settled)
        if done is not None and done.log:
            self._on_failure(message.metadata.dst_node_id, done.log)
        self._on_reply(message.metadata.dst_node_id)
        return reply

    def _take_up(self, fabric: Fabric) -> None:
        self._sent = fabric.sent
        self._presence.restore(fabric.batteries)
        contents = [recorddict_from_proto(ProtoRecordDict.FromString(c)) for c in fabric.contents]
        for journey in sorted((*fabric.journeys, *fabric.arrived), key=lambda j: j.number):
            node, content = (
                int(self._fleet.node[journey.row]),
                contents[fabric.content[journey.number]],
            )
            message = Message(content, node, MessageType.TRAIN)
            _identify(message, str(journey.number))
            self._messages[journey.number] = message
        self._arrived = {j.number: j for j in fabric.arrived}


def _sizes(content: RecordDict, numbers: int) -> tuple[int, int]:
    """Bytes of a message, and of the update that answers it: the same arrays, and so many numbers."""
    arrays = itertools.chain.from_iterable(r.values() for r in content.array_records.values())
    return content_bytes(content), sum(len(a.data) for a in arrays) + NUMBER_BYTES * numbers


def _round_of(message: Message) -> int:
    for record in message.content.config_records.values():
        if isinstance(number := record.get("server-round"), int):
            return number
    return 0


def _identify(message: Message, identity: str) -> None:
    """A SuperLink gives a message its id; there is no setter."""
    message.metadata.__dict__["_message_id"] = identity
