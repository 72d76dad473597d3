"""Compressed updates are whole again before anybody aggregates them."""

from __future__ import annotations

import numpy as np
import pytest

from protos.arrays import decode_arrays, encode_arrays
from protos.compression import compress, decompress, parse_compression
from tests.server.service.peers import peer
from tests.server.service.test_grid import grid_on, message


@pytest.mark.parametrize("way", ["int8", "top-k:0.5"])
def test_the_reply_has_the_models_arrays(host, way):
    grid = grid_on(host)
    with peer(host) as device:
        waiting = device.wait()
        (message_id,) = grid.push_messages([message(grid, device.device_id)])
        task = device.next_task(waiting)
        model = decode_arrays(device.fetch(task))
        trained = {n: np.asarray(v * 2, dtype=v.dtype) for n, v in model.items()}
        sent, _ = compress(trained, model, {}, parse_compression(way))
        assert sent.keys() != model.keys()
        device.send(task.task_id, encode_arrays(sent), **{"num-examples": 3})
        grid.wait(20, 1)
        (reply,) = grid.pull_messages([message_id])
    wanted = decompress(sent, model)
    found = {n: a.numpy() for n, a in reply.content["arrays"].items()}
    assert found.keys() == model.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_change_of_a_model_that_it_does_not_fit_is_an_error(host):
    grid = grid_on(host)
    with peer(host) as device:
        waiting = device.wait()
        (message_id,) = grid.push_messages([message(grid, device.device_id)])
        task = device.next_task(waiting)
        wrong = {"other#int8": np.zeros(3, np.int8), "other#scale": np.ones(1, np.float32)}
        device.send(task.task_id, encode_arrays(wrong))
        grid.wait(20, 1)
        (reply,) = grid.pull_messages([message_id])
    assert not reply.has_content()
    assert "no array of the model" in reply.error.reason
