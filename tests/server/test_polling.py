"""What a coordinator over Flower gets to know of its nodes."""

from __future__ import annotations

import math
from datetime import datetime

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.app.message import Message
from flwr.supercore.task_identity import TaskIdentity

from client.app import build_client_app
from client.device.facts import Power, Reading, Sources
from client.outbox import STANDING
from scheduler.errors import RunFailed
from server.polling import Polling, Query
from server.reports import Reports
from simulations.availability import State, holds
from simulations.battery import share
from simulations.fleet import Habits, Window
from simulations.presence import Presence
from tests.server.grids import FunctionGrid
from tests.simulations.fleets import fleet_with, kind_of

PLUGGED = {"charging": True, "idle": True, "unmetered": True, "battery": 1.0, "can_train": True}


class AppGrid(FunctionGrid):
    """Nodes are functions from a message to its reply, which comes `takes_s` later; None is no reply."""

    def _reply(self, message):
        reply = self.answers[message.metadata.dst_node_id](message)
        if reply is not None:
            reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
        return reply

    def pause(self, seconds):
        self.clock_s += seconds


def node(facts: Sources, ram_bytes: int = 1000, run=None, **policy):
    """A node of fedpoet's ClientApp on a device for which these facts hold."""
    config = {"device": "nrf52840", "ram-bytes": ram_bytes, **policy}
    context = Context(1, 7, config, RecordDict(), run or {})
    return lambda message: build_client_app(sources=lambda: facts)(message, context)


def facts(charging=True, battery=1.0, idle=True, unmetered=True, free_ram=10**9):
    return Sources(
        power=lambda: Reading(
            value=None if charging is None else Power(charging=charging, battery=battery), source=""
        ),
        idle=lambda _: Reading(value=idle, source=""),
        unmetered=lambda: Reading(value=unmetered, source=""),
        free_ram=lambda: Reading(value=free_ram, source=""),
        now=lambda: datetime(2026, 11, 23, 12, 0),  # noqa: DTZ001 (a device's own time)
    )


def polling(grid: AppGrid, query: Query | None = None) -> Polling:
    return Polling(grid, grid.now_s, grid.pause, query=query or Query(wait_s=10, fresh_s=60))


def rows(reports: Reports) -> dict[int, dict]:
    names = [name for name in Reports.__slots__ if name != "node"]
    return {
        int(node): {name: getattr(reports, name)[i].item() for name in names}
        for i, node in enumerate(reports.node)
    }


def test_flowers_nodes_say_what_the_simulated_fleet_says_when_the_same_is_so():
    """Each device of a fleet as a node: what holds in the fleet is what its system's files would tell."""
    sometimes = (Window(start_h=3, hours=9, share=0.7, device_spread_h=6, day_spread_h=1),)
    habits = Habits(charging=sometimes, idle=sometimes, unmetered=sometimes)
    fleet = fleet_with(
        [kind_of(habits, own_w=0.5), kind_of(habits, name="small", ram_bytes=700)],
        12,
        seed=3,
        battery_j=40_000.0,
        charge_w=3.0,
        battery_start=0.9,
    )
    every = np.arange(len(fleet))
    seen = set()
    for now_s in (0.0, 5 * 3600.0, 11 * 3600.0, 20 * 3600.0):
        presence = Presence(fleet)
        simulated = presence.reports(now_s)
        true = {state: holds(fleet, state, every, now_s) for state in State}
        battery = share(fleet, every, Presence(fleet).levels(every, now_s))
        answers = {
            int(fleet.node[row]): node(
                facts(
                    charging=bool(true[State.CHARGING][row]),
                    battery=float(battery[row]),
                    idle=bool(true[State.IDLE][row]),
                    unmetered=bool(true[State.UNMETERED][row]),
                ),
                int(fleet.ram_bytes[row]),
            )
            for row in every
            if fleet.node[row] in simulated.node
        }
        found = rows(polling(AppGrid(answers)).reports())
        assert found == rows(simulated)
        seen |= {tuple(row.values())[:3] for row in found.values()}
    assert len(seen) > 3  # the devices were not all alike


def test_an_answer_is_the_numbers_of_the_closed_list_and_nothing_else():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    reply = node(facts(battery=0.5, charging=False))(Message(RecordDict(), 7, "query"))
    assert list(reply.content) == ["standing"]
    assert dict(reply.content["standing"]) == {
        "battery": 0.5,
        "charging": 0,
        "idle": 1,
        "unmetered": 1,
        "free-ram-bytes": 1000,
        "ready": 1,
    }
    assert set(reply.content["standing"]) == STANDING


def test_what_a_device_does_not_know_counts_as_not_so():
    grid = AppGrid({5: node(facts(charging=None, idle=None, unmetered=None, free_ram=None))})
    assert rows(polling(grid).reports())[5] == {
        **PLUGGED,
        "charging": False,
        "idle": False,
        "unmetered": False,
        "free_ram_bytes": 0,
    }


@pytest.mark.parametrize(
    ("policy", "what_is", "reason"),
    [
        ({"charging": True}, {"charging": False}, "not-charging"),
        ({"idle": True}, {"idle": False}, "not-idle"),
        ({"unmetered": True}, {"unmetered": False}, "metered"),
        ({"battery": 0.8}, {"battery": 0.7}, "battery-low"),
        ({"quiet-hours": "22:00-07:00, 11:30-12:30"}, {}, "quiet-hours"),
    ],
)
def test_the_owners_policy_is_told_and_holds_whoever_asks(policy, what_is, reason):
    device = node(facts(**what_is), **policy)
    assert not rows(polling(AppGrid({5: device})).reports())[5]["can_train"]
    allowed = node(facts(), **{**policy, "quiet-hours": "22:00-07:00"})
    assert rows(polling(AppGrid({5: allowed})).reports())[5]["can_train"]
    content = RecordDict({"arrays": ArrayRecord({}), "config": ConfigRecord({"server-round": 1})})
    with pytest.raises(RunFailed, match=f"does not allow training now: {reason}$"):
        device(Message(content, 7, "train"))


def said(**numbers):
    return lambda message: Message(RecordDict({"m": MetricRecord(numbers)}), reply_to=message)


GOOD = {"charging": 0, "idle": 0, "unmetered": 0, "free-ram-bytes": 5, "ready": 0, "battery": 0.5}


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: None,
        lambda message: Message(Error(2, "no query in this app"), reply_to=message),
        lambda message: Message(RecordDict(), reply_to=message),
        said(charging=1),
        said(**{**GOOD, "battery": math.nan}),
        said(**{**GOOD, "battery": 1.5}),
        said(**{**GOOD, "free-ram-bytes": -1}),
        said(**{**GOOD, "free-ram-bytes": math.inf}),
        said(**{**GOOD, "free-ram-bytes": math.nan}),
        said(**{**GOOD, "free-ram-bytes": [1, 2]}),
    ],
)
def test_a_node_that_does_not_answer_so_is_taken_for_plugged_in(answer):
    grid = AppGrid({5: answer, 6: said(**GOOD)})
    found = rows(polling(grid).reports())
    assert {name: found[5][name] for name in PLUGGED} == PLUGGED
    assert not found[6]["can_train"]
    assert found[6]["free_ram_bytes"] == 5


def test_answers_are_waited_for_so_long_and_are_good_for_a_while():
    grid = AppGrid({5: said(**GOOD), 6: said(**GOOD)}, takes_s={5: 3, 6: 30})
    asking = polling(grid)
    found = rows(asking.reports())
    assert grid.clock_s == pytest.approx(10)
    assert (found[5]["can_train"], found[6]["can_train"]) == (False, True)
    grid.clock_s += 59
    assert rows(asking.reports()) == found
    assert len(grid.asked) == 1
    grid.clock_s += 2
    grid.answers[7] = said(**GOOD)
    asking.reports()
    assert grid.asked[1:] == [[5, 6, 7]]


def test_without_a_query_nobody_is_asked():
    grid = AppGrid({5: said(**GOOD)})
    assert rows(Polling(grid, grid.now_s, grid.pause).reports())[5]["can_train"]
    assert grid.asked == []
