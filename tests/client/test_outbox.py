from __future__ import annotations

import numpy as np
import pytest

from client.outbox import failure, manifest, seal
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
