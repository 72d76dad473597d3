"""The comparison's task in pfl. Run by benchmarks.sim."""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import task
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel


class Trained(torch.nn.Module):
    """What pfl wants of a module: loss and metrics over it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def loss(self, x, y):
        return torch.nn.functional.cross_entropy(self.inner(x), y)

    def metrics(self, x, y):
        return {}


class EachRound(TrainingProcessCallback):
    def __init__(self, watch: task.Watch, name: str) -> None:
        self.watch, self.name = watch, name

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.watch.round_ended(task.accuracy(model.pytorch_model.inner, self.name))
        return False, Metrics()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="logistic")
    parser.add_argument("--began", type=float, default=0.0, help="time.time() at the start")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    what = task.TASKS[asked.task]
    np.random.seed(1)
    module = Trained(task.initial_model(asked.task))
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    users = list(range(task.CLIENTS))
    for user in users:
        task.examples(asked.task, user)  # before the first round, so that no round makes data

    def dataset(user: int) -> Dataset:
        return Dataset(raw_data=list(task.examples(asked.task, user)), user_id=str(user))

    federated = FederatedDataset(dataset, get_user_sampler("random", users))
    watch = task.Watch()
    algorithm = NoTraining() if asked.no_training else FederatedAveraging()
    algorithm.run(
        NNAlgorithmParams(
            central_num_iterations=asked.rounds,
            evaluation_frequency=10**9,
            train_cohort_size=task.COHORT,
            val_cohort_size=0,
        ),
        SimulatedBackend(
            training_data=federated, val_data=federated, postprocessors=[WeightByDatapoints()]
        ),
        model,
        NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=what.learning_rate,
            local_batch_size=what.batch_size,
        ),
        callbacks=[EachRound(watch, asked.task)],
    )
    json.dump(watch.report(asked.began), sys.stdout)


class NoTraining(FederatedAveraging):
    def train_one_user(self, initial_model_state, model, user_dataset, central_context):
        return model.get_model_difference(initial_model_state), Metrics()


if __name__ == "__main__":
    main()
