"""A node that adds a known number to every array that it gets."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.null_device import null_metrics, null_update

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    partition = int(str(context.node_config["partition-id"]))
    (record,) = message.content.array_records.values()
    (config,) = message.content.config_records.values()
    arrays = {name: array.numpy() for name, array in record.items()}
    updated = null_update(arrays, partition, int(str(config["server-round"])))
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(value) for name, value in updated.items()}),
            "metrics": MetricRecord(dict(null_metrics(partition))),
        }
    )
    return Message(content, reply_to=message)
