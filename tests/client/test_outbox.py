from __future__ import annotations

import numpy as np
import pytest

from client.outbox import EGRESS, failure, manifest, released, seal
from protos import device_pb2
from protos.values import to_numbers
from scheduler.errors import BadFile, Infeasible, PageStoreError, Refused, Untraceable

MODEL = {"w": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}
ALLOWED = manifest(MODEL)
BATCH = np.random.default_rng(0).normal(size=(8, 6, 100)).astype(np.float32)


def test_the_models_arrays_and_declared_metrics_leave():
    update = seal(MODEL, {"num-examples": 8, "train-loss": 0.5}, ALLOWED)
    assert set(update.arrays) == set(MODEL)
    assert update.metrics == {"num-examples": 8, "train-loss": 0.5}


def test_what_leaves_is_a_copy():
    update = seal(MODEL, {}, ALLOWED)
    assert not any(np.shares_memory(update.arrays[k], v) for k, v in MODEL.items())


@pytest.mark.parametrize(
    ("arrays", "metrics"),
    [
        (MODEL | {"batch": BATCH}, {}),
        (MODEL | {"w": BATCH}, {}),
        (MODEL | {"w": BATCH.ravel()[:6]}, {}),
        (MODEL | {"w": MODEL["w"].astype(np.float64)}, {}),
        (MODEL | {"w": MODEL["w"].tolist()}, {}),
        (MODEL | {"w": MODEL["w"].tobytes()}, {}),
        ({"w": MODEL["w"]}, {}),
        (MODEL, {"batch": 1.0}),
        (MODEL, {"train-loss": BATCH}),
        (MODEL, {"train-loss": BATCH.ravel().tolist()}),
        (MODEL, {"train-loss": "0.5"}),
        (MODEL, {"train-loss": True}),
        (MODEL, {"train-loss": BATCH.tobytes()}),
    ],
)
def test_everything_else_stays(arrays, metrics):
    with pytest.raises(Refused) as caught:
        seal(arrays, metrics, ALLOWED)
    assert len(str(caught.value)) < 500


def test_errors_leave_without_quoting_data():
    floor = Infeasible("the floor is 900 bytes", floor_bytes=900, operator="conv")
    assert failure(floor) == "Infeasible: the floor is 900 bytes"
    for error in (ValueError("patient Jane Doe"), BadFile("line 3: Jane Doe")):
        assert "Jane" not in failure(error)
        assert type(error).__name__ in failure(error)


def test_errors_that_may_quote_a_path_or_the_model_stay_on_the_device():
    path = PageStoreError("the page store /home/jane/pages cannot be made: no space")
    model = Untraceable("the training step cannot be traced: KeyError: 'patient Jane'")
    refused = Refused("'patient Jane' is not an array of the model")
    for error in (path, model, refused):
        assert failure(error) == f"{type(error).__name__} on the device; its log says more"


def sent_by_devices():
    """Full descriptors of all messages in requests of the device service."""
    service = device_pb2.DESCRIPTOR.services_by_name["DeviceService"]
    todo, found = [method.input_type for method in service.methods], {}
    while todo:
        kind = todo.pop()
        if kind.name not in found:
            found[kind.name] = kind
            for field in kind.fields:
                if (inner := field.message_type) is not None:
                    is_map = inner.GetOptions().map_entry
                    todo.append(inner.fields_by_name["value"].message_type if is_map else inner)
    return found


def test_the_list_is_all_that_a_device_can_say():
    assert {name: {f.name for f in kind.fields} for name, kind in sent_by_devices().items()} == {
        name: set(fields) for name, fields in EGRESS.items()
    }


def test_a_listed_message_leaves_as_it_is():
    header = device_pb2.UpdateHeader(
        task_id=bytes(16), digest=bytes(32), size_bytes=9, metrics=to_numbers({"steps": 3})
    )
    part = device_pb2.UpdatePart(header=header)
    assert released(part) is part
    capabilities = device_pb2.Capabilities(
        profile="phone", battery=0.5, workloads=[device_pb2.KnownWorkload(name="digits")]
    )
    assert released(capabilities) is capabilities
    assert released(device_pb2.WaitRequest(held=[bytes(16), bytes(16)]))


@pytest.mark.parametrize(
    "message",
    [
        device_pb2.Task(workload="what a coordinator says"),
        device_pb2.Capabilities(profile="x" * 65),
        device_pb2.Capabilities(workloads=[device_pb2.KnownWorkload(name="x" * 65)]),
        device_pb2.WaitRequest(held=[bytes(16), BATCH.tobytes()]),
        device_pb2.DeclineRequest(detail="x" * 501),
        device_pb2.DeclineRequest(task_id=BATCH.tobytes()),
        device_pb2.UpdatePart(chunk=device_pb2.Chunk(data=bytes(2**20 + 1))),
        device_pb2.UpdateHeader(metrics=to_numbers({"age-of-owner": 34})),
        device_pb2.HelloRequest.FromString(
            device_pb2.Chunk(crc32=7).SerializeToString()  # a field that Hello does not have
        ),
    ],
    ids=lambda message: message.DESCRIPTOR.name,
)
def test_no_other_message_leaves(message):
    with pytest.raises(Refused) as caught:
        released(message)
    assert len(str(caught.value)) < 500
