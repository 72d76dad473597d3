"""The comparison's task in Flower's own simulation, with Ray. Run by benchmarks.sim."""

from __future__ import annotations

import argparse
import json
import sys

import task
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation


def client_app(name: str, training: bool) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        arrays = message.content["arrays"]
        x, y = task.examples(name, int(context.node_config["partition-id"]))
        if training:
            module = task.model(name)
            module.load_state_dict(arrays.to_torch_state_dict())
            what = task.TASKS[name]
            optimizer = torch.optim.SGD(module.parameters(), lr=what.learning_rate)
            for a, b in zip(x.split(what.batch_size), y.split(what.batch_size), strict=True):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(a), b).backward()
                optimizer.step()
            arrays = ArrayRecord(module.state_dict())
        metrics = MetricRecord({"num-examples": len(y)})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="logistic")
    parser.add_argument("--began", type=float, default=0.0, help="time.time() at the start")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--actors", type=int, default=2)
    asked = parser.parse_args()
    watch, server = task.Watch(), ServerApp()

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        module = task.initial_model(asked.task)

        def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
            module.load_state_dict(arrays.to_torch_state_dict())
            accuracy = task.accuracy(module, asked.task)
            if number:
                watch.round_ended(accuracy)
            return MetricRecord({"accuracy": accuracy})

        strategy = FedAvg(
            fraction_train=task.COHORT / task.CLIENTS,
            fraction_evaluate=0.0,
            min_train_nodes=task.COHORT,
            min_available_nodes=task.CLIENTS,
        )
        strategy.start(
            grid,
            ArrayRecord(module.state_dict()),
            num_rounds=asked.rounds,
            evaluate_fn=evaluate,
        )

    run_simulation(
        server,
        client_app(asked.task, not asked.no_training),
        task.CLIENTS,
        backend_config={
            "init_args": {"num_cpus": asked.actors, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
        },
    )
    json.dump(watch.report(asked.began), sys.stdout)


if __name__ == "__main__":
    main()
