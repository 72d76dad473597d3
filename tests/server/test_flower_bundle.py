"""The app bundle of examples/flower, without Flower's processes: what breaks it shows within seconds."""

from __future__ import annotations

import importlib
import json
import tomllib

import pytest
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from safetensors.numpy import load_file

from scheduler.errors import BadInput
from tests.e2e.flower_processes import ROOT, VIBRATION
from tests.server.grids import FunctionGrid

BUNDLE = ROOT / "examples" / "flower"
DECLARED = tomllib.loads((BUNDLE / "pyproject.toml").read_text())["tool"]["flwr"]["app"]


@pytest.fixture
def app(monkeypatch):
    monkeypatch.syspath_prepend(BUNDLE)

    def named(component: str):
        module, _, name = DECLARED["components"][component].partition(":")
        return getattr(importlib.import_module(module), name)

    return named


def context(**config) -> Context:
    unknown = config.keys() - DECLARED["config"].keys()
    assert not unknown  # `flwr run` refuses them
    return Context(
        run_id=1,
        node_id=1,
        node_config={},
        state=RecordDict(),
        run_config=DECLARED["config"] | config,
    )


def test_both_components_are_what_flower_looks_for(app):
    assert isinstance(app("serverapp"), ServerApp)
    assert isinstance(app("clientapp"), ClientApp)


def test_a_run_with_the_declared_settings_writes_model_and_metrics(app, tmp_path):
    def moved(arrays):
        update = {name: value + value.dtype.type(1) for name, value in arrays.items()}
        return update, {"num-examples": 3, "partition-id": 0, "train-loss": 1.0}

    settings = {"workload": VIBRATION, "out": str(tmp_path), "num-rounds": 2, "min-nodes": 2}
    app("serverapp")(FunctionGrid({1: moved, 2: moved}), context(**settings))
    rounds = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["round"], len(r["devices"]), r["refused"]) for r in rounds] == [
        (0, 0, []),
        (1, 2, []),
        (2, 2, []),
    ]
    assert load_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("config", "told"), [({"out": "here"}, "absolute"), ({"out": "/x", "listen": "a:1"}, "keys")]
)
def test_settings_that_cannot_be_are_refused_by_name(app, config, told):
    with pytest.raises(BadInput, match=told):
        app("serverapp")(FunctionGrid({}), context(**config))
