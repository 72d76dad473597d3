"""A device's way through the service, over real gRPC and mutual TLS on loopback."""

from __future__ import annotations

from tests.server.service.peers import peer, push, update_blob


def test_a_round(host):
    with peer(host) as device:
        waiting = device.wait()
        pushed = push(host, device.device_id)
        task = device.next_task(waiting)
        assert task == pushed
        assert device.fetch(task) == b"model" * 1000
        update = update_blob(values=100_000)
        receipt = device.send(task.task_id, update, **{"num-examples": 12, "train-loss": 0.1})
        entry = host.store.tasks.find(task.task_id)
        assert entry.receipt == receipt
        assert host.store.blobs.update(task.task_id).read_bytes() == update
        assert entry.header.metrics["num-examples"].integer == 12
        assert entry.header.metrics["train-loss"].real == 0.1
