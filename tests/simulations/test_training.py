"""Jobs and what comes of them, whoever does them."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from client.app import settings_of
from client.node import Node, plan_key
from client.plain import Plainly
from client.state import initial_arrays
from client.workload import Examples, load_workload
from simulations.identity import be_server
from simulations.training import Done, InProcess, Job, Recipe, remembering, untrained

RUN = {"workload": "digits", "seed": 3, "plan-time-limit-s": 1.0}
BOARD = {"device": "nrf52840", "ram-bytes": 180_000}
PHONE = {"device": "phone-pixel-6", "ram-bytes": 64_000_000}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def content(number: int = 1) -> RecordDict:
    arrays = initial_arrays(load_workload("digits"), 1)
    record = ArrayRecord({k: Array(v) for k, v in arrays.items()})
    return RecordDict({"arrays": record, "config": ConfigRecord({"server-round": number})})


def jobs(partitions=range(4), number: int = 1, **node) -> list[Job]:
    """Jobs of one round that share their content, on devices of two kinds."""
    be_server()
    shared = content(number)
    made = []
    for p in partitions:
        config = {**(BOARD if p % 2 else PHONE), "partition-id": p, **node}
        message = Message(shared, dst_node_id=100 + p, message_type="train")
        message.metadata.__dict__["_message_id"] = f"m{p}"
        made.append(Job(message=message, context=Context(1, 100 + p, config, RecordDict(), RUN)))
    return made


def told(done: list[Done]) -> list[tuple]:
    """Everything that a coordinator sees of replies, bytes of arrays included."""
    seen = []
    for one in done:
        meta = one.reply.metadata
        record = (meta.src_node_id, meta.dst_node_id, meta.reply_to_message_id)
        if one.reply.has_error():
            seen.append((*record, one.reply.error.reason, one.log))
            continue
        (arrays,) = one.reply.content.array_records.values()
        (metrics,) = one.reply.content.metric_records.values()
        seen.append((*record, {k: a.data for k, a in arrays.items()}, dict(metrics)))
    return seen


@pytest.fixture(scope="module")
def charged() -> Recipe:
    """A recipe with the charges of both kinds, as enrolment leaves them."""
    plainly, plans = Plainly(), {}
    for job in jobs(range(2)):
        settings = settings_of(job.context)
        plans[plan_key(settings)] = Node(settings, {}, training=plainly).ready()
    assert len(plainly.charges) == 2
    return Recipe(charges=plainly.charges, plans=plans)


def test_replies_come_from_the_devices_and_answer_their_messages(charged):
    done = InProcess(charged.app())(jobs())
    assert [r[:3] for r in told(done)] == [(100 + p, 1, f"m{p}") for p in range(4)]
    assert all(one.log == "" for one in done)


def test_the_order_of_jobs_and_company_change_no_number(charged):
    together = told(InProcess(charged.app())(jobs()))
    app = charged.app()
    apart = [told(InProcess(app)([job]))[0] for job in reversed(jobs())]
    assert together == apart[::-1]


def test_plans_executed_give_the_same_updates(charged, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("planned again")

    monkeypatch.setattr("client.prepare.cached_solve", never)
    plain = told(InProcess(charged.app())(jobs()))
    planned = told(InProcess(replace(charged, charges=None).app())(jobs()))
    for one, other in zip(plain, planned, strict=True):
        assert one[:4] == other[:4]
        assert one[4].items() < other[4].items()  # the peak was measured


def test_a_recipe_crosses_to_another_process(charged):
    again = pickle.loads(pickle.dumps(charged))
    assert again == charged
    assert told(InProcess(again.app())(jobs())) == told(InProcess(charged.app())(jobs()))


def test_what_a_device_is_given_stays_as_it_was(charged):
    asked = jobs()
    before = {k: a.data for k, a in asked[0].message.content["arrays"].items()}
    InProcess(charged.app())(asked)
    after = asked[0].message.content["arrays"]
    assert {k: a.data for k, a in after.items()} == before


def test_a_device_that_fails_answers_with_an_error_and_keeps_its_log(charged):
    """One failure spoils no other job."""
    asked = jobs([0, 1, 77])
    seen: list[Done] = []
    done = InProcess(charged.app(), seen.append)(asked)
    assert seen == done
    assert [one.reply.has_error() for one in done] == [False, False, True]
    assert done[2].reply.error.reason == "BadInput on the device; its log says more"
    assert "partitions 0 to 9, not 77" in done[2].log
    assert told(done[:2]) == told(InProcess(charged.app())(asked[:2]))


def test_untrained_devices_send_back_what_they_got():
    asked = jobs()
    for job, one in zip(asked, untrained(asked), strict=True):
        assert one.reply.metadata.src_node_id == job.context.node_id
        assert one.reply.content["arrays"] is job.message.content["arrays"]


def test_examples_are_loaded_once_and_forgotten_when_there_are_too_many():
    asked: list[int] = []
    digits = load_workload("digits")

    def data(partition):
        asked.append(partition)
        return Examples(x=torch.zeros(10, 10), y=torch.zeros(10))

    workload = remembering(lambda _: replace(digits, data=data), 1000)("digits")
    for partition in (0, 1, 0, 1, 2, 2, 1, 0):
        workload.data(partition)
    assert asked == [0, 1, 2, 0]  # two of 440 bytes fit
    assert np.array_equal(workload.data(0).x, torch.zeros(10, 10))
