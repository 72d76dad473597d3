"""The simulated fabric against time lines worked out by hand: three boards that train 10, 2 and 4 s."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from scheduler.errors import Refused
from server.replies import content_bytes
from simulations.checkpoint import Checkpoint, packed, read_checkpoint
from simulations.clock import VirtualClock
from simulations.departures import Charges, Departures
from simulations.fleet import Habits, Window
from simulations.folder import begun
from simulations.grid import SimulatedGrid
from simulations.identity import RUN_ID, be_server
from simulations.journey import SILENCE_S, End, Phase
from simulations.training import InProcess
from tests.simulations.fleets import fleet_with, kind_of

STEPS = {0: 5, 1: 1, 2: 2}  # of 2 s each
UP_NUMBERS = 2


def echo():
    app = ClientApp()

    @app.train()
    def train(message, context):
        (record,) = message.content.array_records.values()
        arrays = ArrayRecord({name: Array(array.numpy() + 1) for name, array in record.items()})
        metrics = MetricRecord({"num-examples": 10, "train-loss": 0.5})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def fabric(fleet=None, app=None, clock=None, **settings):
    fleet = fleet or fleet_with([kind_of(own_w=0.5)], 3)
    charges = Charges(
        time_s=np.array([2.0]), energy_j=np.array([1.0]), steps=lambda row: STEPS[row % 3]
    )
    return SimulatedGrid(
        clock or VirtualClock(),
        Departures(fleet=fleet, charges=charges),
        InProcess(app or echo()),
        lambda row: Context(RUN_ID, int(fleet.node[row]), {}, RecordDict(), {}),
        numbers=UP_NUMBERS,
        **settings,
    )


def messages(nodes=(100, 101, 102), round_number=1):
    be_server()
    record = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.zeros(4, np.float32))}),
            "config": ConfigRecord({"server-round": round_number}),
        }
    )
    return [Message(record, dst_node_id=node, message_type="train") for node in nodes]


# Links: 0.5 s, then 1000 bytes per second down and 500 up.
DOWN_BYTES = content_bytes(messages()[0].content)
UP_BYTES = DOWN_BYTES - 8 + 8 * UP_NUMBERS
DOWN_S, UP_S = 0.5 + DOWN_BYTES / 1000, 0.5 + UP_BYTES / 500


def test_replies_come_when_links_and_plans_say():
    grid = fabric()
    ids = list(grid.push_messages(messages()))
    seen = []
    for _ in range(3):
        grid.wait(math.inf, 1)
        seen += [(r.metadata.src_node_id, grid.now_s()) for r in grid.pull_messages(ids)]
    path_s = DOWN_S + UP_S
    assert [node for node, _ in seen] == [101, 102, 100]
    assert [at for _, at in seen] == pytest.approx([path_s + 2, path_s + 4, path_s + 10])
    assert list(grid.pull_messages(ids)) == []


def test_so_many_replies_are_waited_for_and_no_longer():
    grid = fabric()
    ids = list(grid.push_messages(messages()))
    grid.wait(math.inf, 2)
    assert grid.now_s() == pytest.approx(DOWN_S + 4 + UP_S)
    assert len(list(grid.pull_messages(ids))) == 2
    grid.wait(1.5, 1)
    assert grid.now_s() == pytest.approx(DOWN_S + 4 + UP_S + 1.5)
    assert list(grid.pull_messages(ids)) == []


def test_an_update_weighs_what_was_charged_for_it():
    grid = fabric()
    (reply,) = grid.send_and_receive(messages([100]))
    assert content_bytes(reply.content) == UP_BYTES
    ((settled),) = grid.settled()
    assert settled.journey.bytes_up == UP_BYTES
    assert settled.journey.bytes_down == DOWN_BYTES


def test_nodes_do_not_share_what_they_change():
    replies = list(fabric().send_and_receive(messages()))
    arrays = [next(iter(r.content.array_records.values()))["w"].numpy() for r in replies]
    assert all((a == 1).all() for a in arrays)
    assert len({r.metadata.reply_to_message_id for r in replies}) == 3


def test_a_reply_after_the_timeout_is_not_there_yet():
    grid = fabric()
    timeout = DOWN_S + 5 + UP_S
    replies = list(grid.send_and_receive(messages(), timeout=timeout))
    assert [r.metadata.src_node_id for r in replies] == [101, 102]
    assert grid.now_s() == timeout


def test_a_withdrawn_device_stops_and_draws_no_more():
    trained = []
    app = ClientApp()

    @app.train()
    def train(message, context):
        trained.append(context.node_id)
        return echo()(message, context)

    battery = {"battery_j": 1000.0, "charge_w": 0.0}
    grid = fabric(fleet_with([kind_of(own_w=0.5)], 3, **battery), app)
    ids = list(grid.push_messages(messages()))
    grid.wait(math.inf, 1)
    (reply,) = grid.pull_messages(ids)
    now_s = grid.now_s()
    grid.withdraw([ids[0], ids[2]])
    assert (reply.metadata.src_node_id, trained) == (101, [101])
    stopped = {s.journey.row: s.journey for s in grid.settled()}
    assert {row: j.end for row, j in stopped.items()} == {
        0: End.WITHDRAWN,
        1: End.ARRIVED,
        2: End.WITHDRAWN,
    }
    # Device 100 would train for 10 s: it has trained since the model was there, and sent nothing.
    trained_s = now_s - DOWN_S
    assert stopped[0].spent_s(Phase.TRAINS, now_s) == pytest.approx(trained_s)
    assert stopped[0].spent_s(Phase.UP, now_s) == 0.0
    drawn_j = 2.5 * DOWN_S + stopped[0].train_w * trained_s
    assert stopped[0].level_j == pytest.approx(1000 - drawn_j)
    later = grid.now_s() + 20.0
    grid.wait(20.0, 1)
    assert grid.now_s() == later  # nothing comes any more
    assert list(grid.pull_messages(ids)) == []
    assert grid.cut_off() == ()
    left_j = (grid.reports().battery * 1000).tolist()
    assert left_j[0] == pytest.approx(1000 - drawn_j - 0.5 * 20)
    # All may be asked anew.
    assert len(list(grid.send_and_receive(messages(round_number=2)))) == 3


def test_a_device_that_was_lost_before_is_no_withdrawn_one():
    day = Habits(online=(Window(start_h=0.0, hours=5.0 / 3600),))
    grid = fabric(fleet_with([kind_of(day)], 3))
    ids = list(grid.push_messages(messages()))
    grid.wait(math.inf, 1)
    list(grid.pull_messages(ids))
    grid.wait(5.0, 1)  # the others have gone by now, and the coordinator does not know
    grid.settled()
    grid.withdraw([ids[0], ids[2]])
    lost = [s.journey for s in grid.settled()]
    assert [j.end for j in lost] == [End.WENT_OFFLINE] * 2
    assert [j.began_s[Phase.SILENT] for j in lost] == [5.0] * 2


def test_a_withdrawn_message_gives_up_its_place_on_the_link():
    grid = fabric(slots=1)
    ids = list(grid.push_messages(messages()))
    grid.wait(DOWN_S / 2, 3)
    grid.withdraw(ids[:2])  # the first is on the link, the second waits for it
    grid.wait(math.inf, 1)
    (reply,) = grid.pull_messages(ids[2:])
    assert reply.metadata.src_node_id == 102
    assert grid.now_s() == pytest.approx(1.5 * DOWN_S + 4 + UP_S)


def test_devices_whose_replies_come_next_train_together():
    calls = []

    class Counted(InProcess):
        def __call__(self, jobs):
            calls.append([job.context.node_id for job in jobs])
            return super().__call__(jobs)

    fleet = fleet_with([kind_of()], 4, drop_out=[0.0, 0.0, 0.0, 1.0])
    charges = Charges(
        time_s=np.array([2.0]), energy_j=np.array([1.0]), steps=lambda row: (5, 1, 2, 1)[row]
    )
    grid = SimulatedGrid(
        VirtualClock(),
        Departures(fleet=fleet, charges=charges),
        Counted(echo()),
        lambda row: Context(RUN_ID, int(fleet.node[row]), {}, RecordDict(), {}),
        numbers=UP_NUMBERS,
        batch=2,
    )
    ids = list(grid.push_messages(messages([100, 101, 102, 103])))
    replies = []
    while len(replies) < 4:
        grid.wait(math.inf, 1)
        replies += [r.metadata.src_node_id for i in ids for r in grid.pull_messages([i])]
    assert calls == [[101, 102], [100]]  # 103 will drop out
    assert replies == [101, 102, 100, 103]


def test_who_goes_offline_is_noticed_after_the_silence():
    day = Habits(online=(Window(start_h=0.0, hours=5.0 / 3600),))
    fleet = fleet_with([kind_of(day)], 3)
    grid = fabric(fleet)
    replies = list(grid.send_and_receive(messages()))
    told = {r.metadata.src_node_id: r.error.reason if r.has_error() else "" for r in replies}
    assert told == {101: "", 100: "the device went offline", 102: "the device went offline"}
    assert grid.now_s() == pytest.approx(5.0 + SILENCE_S)


def test_training_empties_the_battery():
    fleet = fleet_with([kind_of(own_w=0.5)], 3, battery_j=10.0, charge_w=0.0)
    grid = fabric(fleet)
    assert grid.reports().battery.tolist() == [1.0] * 3
    replies = list(grid.send_and_receive(messages()))
    ends = {s.journey.row: s.journey.end for s in grid.settled()}
    # 100 draws 2.5 W while bytes move, then 0.5 W and a joule per step of 2 s: more than 10 J in all.
    idle_w = fleet.kinds[0].profile.idle_w
    needed_j = {n: 2.5 * (DOWN_S + UP_S) + s * (2 * (0.5 - idle_w) + 1) for n, s in STEPS.items()}
    assert {n: e is End.BATTERY_EMPTY for n, e in ends.items()} == {
        n: j > 10 for n, j in needed_j.items()
    }
    assert End.BATTERY_EMPTY in ends.values()
    assert "the device's battery was empty" in {r.error.reason for r in replies if r.has_error()}
    assert 100 not in grid.reports().node  # it is off


def test_a_device_that_fails_answers_with_the_reason():
    app = ClientApp()

    @app.train()
    def train(message, context):
        raise Refused("a raw batch tried to leave")

    done, log = [], []
    note = lambda node, text: log.append((node, text))  # noqa: E731
    grid = fabric(app=app, on_reply=done.append, on_failure=note)
    (reply, *_) = grid.send_and_receive(messages())
    assert reply.has_error()
    assert reply.error.reason == "a raw batch tried to leave"
    assert done == [101, 102, 100]
    assert log == [(n, "Refused: a raw batch tried to leave") for n in done]
    assert all(s.failed for s in grid.settled())


def test_reports_are_of_those_who_are_online():
    early, late = (Habits(online=(Window(start_h=h, hours=1.0),)) for h in (0.0, 6.0))
    grid = fabric(fleet_with([kind_of(early), kind_of(late, name="other")], 4))
    assert grid.reports().node.tolist() == [100, 102]
    grid.wait(6.5 * 3600, 1)
    assert grid.reports().node.tolist() == [101, 103]
    assert grid.online == 2


def test_waiting_for_nothing_ends():
    grid = fabric()
    grid.wait(math.inf, 1)
    assert grid.now_s() == 0.0
    grid.wait(60.0, 2**62)
    assert grid.now_s() == 60.0


def test_the_end_of_a_run_cuts_journeys_off():
    grid = fabric()
    ids = list(grid.push_messages(messages()))
    grid.wait(math.inf, 1)
    assert [s.journey.row for s in grid.cut_off()] == [0, 1, 2]
    list(grid.pull_messages(ids))
    assert [s.journey.row for s in grid.cut_off()] == [0, 2]


@pytest.mark.parametrize("withdraws", [True, False])
def test_a_fabric_that_is_taken_up_again_goes_on_alike(tmp_path, withdraws):
    from server.federation import Progress
    from server.history import no_history

    def drive(grid, ids, rounds):
        seen = []
        for number in rounds:
            ids += grid.push_messages(messages([100 + number % 3], round_number=number))
            grid.wait(7.0, 1)
            for reply in grid.pull_messages(ids):
                seen.append((reply.metadata.src_node_id, reply.has_error(), grid.now_s()))
                ids.remove(reply.metadata.reply_to_message_id)
            if withdraws and number % 2:
                grid.withdraw(ids)
                ids.clear()
        return seen

    fleet = fleet_with([kind_of(own_w=0.5)], 3, battery_j=200.0, charge_w=0.0)
    whole = fabric(fleet, slots=1)
    expected = drive(whole, [], range(1, 9))

    stopped, ids = fabric(fleet, slots=1), []
    seen = drive(stopped, ids, range(1, 5))
    progress = Progress(
        number=4, arrays={}, strategy={}, history=no_history(), pending=(), bases={}, skipped=0
    )
    saved = Checkpoint(digest="", progress=progress, fabric=stopped.fabric())
    draft = begun(tmp_path / "run", {}, overwrite=False)
    draft.save(*packed(saved))
    draft.close()
    read, _ = read_checkpoint(draft.checkpoint)
    again = fabric(
        fleet,
        slots=1,
        clock=VirtualClock(read.fabric.now_s),
        resume=read.fabric,
    )
    assert seen + drive(again, ids, range(5, 9)) == expected
    assert again.reports().battery.tolist() == whole.reports().battery.tolist()


def test_what_flower_asks_of_a_grid():
    grid = fabric()
    grid.set_run(None)
    assert list(grid.get_node_ids()) == [100, 101, 102]
    assert grid.create_message(RecordDict(), "train", 101, "1").metadata.dst_node_id == 101
    with pytest.raises(NotImplementedError):
        _ = grid.run
