"""Data sets as the Hub has them, from a folder of this machine; nothing is asked of a network."""

from __future__ import annotations

import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from client.local import train_locally
from client.workload import load_workload
from client.workloads import hub
from scheduler import load_device
from scheduler.errors import BadInput, UnknownName

WRITERS = 7


def write(folder, name, columns, features=None):
    table = datasets.Dataset.from_dict(columns, features=features)
    table.to_parquet(str(folder / f"{name}.parquet"))


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """300 images and 60 for the test, with who wrote them."""
    folder = tmp_path_factory.mktemp("digits")
    found = load_digits()
    images = [Image.fromarray((image * 15).astype(np.uint8)) for image in found.images[:360]]
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(num_classes=10),
        writer=datasets.Value("string"),
        wide=datasets.Value("float32"),
        high=datasets.Value("int32"),
    )
    for name, rows in (("train", slice(0, 300)), ("test", slice(300, 360))):
        count = len(images[rows])
        columns = {
            "image": images[rows],
            "label": found.target[:360][rows].tolist(),
            "writer": [f"w{n % WRITERS}" for n in range(count)],
            "wide": np.linspace(0, 1, count).tolist(),
            "high": list(range(count)),
        }
        write(folder, name, columns, features)
    return folder


def rows(parts):
    return sorted(
        (*x.flatten().tolist(), int(y)) for p in parts for x, y in zip(p.x, p.y, strict=True)
    )


@pytest.mark.parametrize(
    ("query", "partitions"),
    [
        ("num_partitions=5", 5),
        ("partitioner=dirichlet&partition_by=label&num_partitions=6&alpha=0.5", 6),
        ("partitioner=natural-id&partition_by=writer", WRITERS),
        ("partitioner=size&partition_sizes=[200,60,40]", 3),
    ],
)
def test_a_partitioner_of_flwr_datasets_divides_all_examples(digits, query, partitions):
    workload = load_workload(f"hf:{digits}?{query}")
    assert workload.partitions == partitions
    parts = [workload.examples(n) for n in range(partitions)]
    found = load_digits()
    expected = [
        (*(np.float32(image.flatten() * 15) / np.float32(255)).tolist(), int(label))
        for image, label in zip(found.images[:300], found.target[:300], strict=True)
    ]
    assert rows(parts) == sorted(expected)
    again = load_workload(f"hf:{digits}?{query}")
    assert torch.equal(again.examples(1).x, parts[1].x)


def test_nobody_is_told_which_data_set_is_loaded(digits):
    load_workload(f"hf:{digits}?num_partitions=2")
    assert sys.modules["flwr_datasets.common.telemetry"].FLWR_TELEMETRY_ENABLED == "0"


def test_one_writer_holds_what_they_wrote(digits):
    workload = load_workload(f"hf:{digits}?partitioner=natural-id&partition_by=writer")
    sizes = sorted(len(workload.examples(n)) for n in range(WRITERS))
    assert sizes == sorted(len(range(w, 300, WRITERS)) for w in range(WRITERS))


def test_it_trains_by_a_plan(digits):
    spec = f"hf:{digits}?num_partitions=2&batch_size=8&local_epochs=2"
    workload = load_workload(spec)
    assert (workload.batch_size, workload.local_epochs) == (8, 2)
    outcome = train_locally(workload, load_device("raspberry-pi-4b"), partition=1)
    assert outcome.report.last_loss < outcome.report.mean_loss
    assert outcome.scores["accuracy"] > 0.1


def test_columns_of_numbers_and_a_model_of_ones_own(digits):
    spec = f"hf:{digits}?num_partitions=2&x=wide,high"
    workload = load_workload(spec)
    assert workload.examples(0).x.shape[1:] == (2,)
    assert workload.model()(workload.test().x).shape == (60, 10)
    assert load_workload(f"hf:{digits}?num_partitions=2&x=wide").test().x.shape == (60, 1)
    from flwr_datasets.partitioner import IidPartitioner

    own = hub.divided(
        str(digits),
        IidPartitioner(num_partitions=3),
        hub.Choice(),
        model=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
        optimizer=torch.optim.Adam,
    )
    assert own.model()(own.test().x).shape == (60, 10)
    assert isinstance(own.optimizer(own.model().parameters()), torch.optim.Adam)


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("partitioner=nope", UnknownName, "no partitioner named 'nope'; known: .*dirichlet"),
        ("num_partitions=x", BadInput, "IidPartitioner cannot be made"),
        ("partitions=3", BadInput, "IidPartitioner cannot be made: .*'partitions'"),
        ("alpha", BadInput, "write options as key=value"),
        ("num_partitions=3&x=nope", BadInput, "no column 'nope', only image, label"),
        ("num_partitions=3&y=writer", BadInput, "column 'writer' holds no class numbers"),
        ("num_partitions=3&x=writer", BadInput, "column 'writer' holds no numbers"),
        ("num_partitions=3&test=nope", BadInput, "'nope' is not present"),
        ("num_partitions=3&train=nope", BadInput, "'nope' is not present"),
        ("num_partitions=3&batch_size=0", BadInput, "batch_size must be a whole number"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(digits, query, error, message):
    with pytest.raises(error, match=message) as caught:
        load_workload(f"hf:{digits}?{query}")
    assert "\n" not in str(caught.value)


def test_a_partition_that_the_partitioner_has_no_examples_for_is_named(digits):
    workload = load_workload(f"hf:{digits}?num_partitions=301")
    with pytest.raises(BadInput, match=r"out of range for dataset of size 300.; partition 300"):
        workload.examples(300)


def test_damaged_or_uneven_files_are_said_in_one_line(digits, tmp_path):
    (tmp_path / "train.parquet").write_bytes((digits / "train.parquet").read_bytes()[:500])
    uneven = tmp_path / "uneven"
    uneven.mkdir()
    images = [Image.fromarray(np.zeros((8, 8 + n), np.uint8)) for n in range(4)]
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    for name in ("train", "test"):
        write(uneven, name, {"image": images, "label": [0, 1, 2, 3]}, features)
    for folder, message in (
        (tmp_path, "cannot be loaded or divided"),
        (tmp_path / "nowhere", "cannot be loaded or divided"),
        (uneven, "images of different sizes"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            load_workload(f"hf:{folder}?num_partitions=2")
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="name a data set"):
        load_workload("hf:?num_partitions=2")


def test_without_the_package_the_message_names_its_extra(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    with pytest.raises(BadInput, match=r"pip install 'fedpoet\[hub\]'"):
        load_workload(f"hf:{digits}?num_partitions=2")


@pytest.mark.slow
def test_without_a_network_a_command_ends_with_exit_code_2(tmp_path):
    arguments = ["floor", "--device", "phone-pixel-6", "--workload", "hf:no/such?num_partitions=2"]
    done = subprocess.run(
        [sys.executable, "-c", "from simulations.cli import main; main()", *arguments],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "one of the Hub needs a network" in " ".join(done.stderr.split())
