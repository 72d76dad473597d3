"""What is installed: the five names, the data files, and nothing heavy behind a light import."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import scheduler

NAMES = ("scheduler", "protos", "client", "server", "simulations")


def test_the_five_names_belong_to_this_distribution() -> None:
    owners = packages_distributions()
    for name in NAMES:
        assert set(owners[name]) == {"fedpoet"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("scheduler", ("torch", "flwr", "grpc", "pydantic", "rich", "matplotlib")),
        ("scheduler.backends.child", ("torch", "pydantic", "rich", "matplotlib")),
        ("protos.files", ("torch", "flwr", "grpc")),
        ("client.cli", ("torch", "flwr", "grpc")),
        ("simulations.cli", ("torch", "flwr", "matplotlib")),
        ("client.executor", ("flwr",)),
        ("client.trainer", ("flwr",)),
        ("server", ("torch", "flwr")),
    ],
)
def test_importing_a_part_loads_no_more_than_it_needs(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*(m for m in {absent!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_of_the_scheduler_exists_and_is_listed_once() -> None:
    assert len(set(scheduler.__all__)) == len(scheduler.__all__)
    for name in scheduler.__all__:
        assert getattr(scheduler, name).__module__.startswith(("scheduler", "types", "typing"))


@pytest.mark.slow
def test_the_wheel_holds_code_and_data(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("fedpoet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for path in (
        "scheduler/devices/nrf52840.toml",
        "scheduler/FORMULATION.md",
        "scheduler/backends/highs.py",
        "protos/plan.proto",
        "protos/plan_pb2.py",
        "client/workloads/watch.py",
        "client/workloads/data/README.md",
        "client/workloads/data/keyword.safetensors.xz",
        "client/workloads/data/state-of-the-union.tsv.xz",
        "client/workloads/data/state-of-the-union-words.txt",
        "simulations/compare.html",
        "simulations/report/page.html",
        *(
            f"simulations/fleets/{name}.toml"
            for name in ("default", "phone", "smart-speaker", "smartwatch")
        ),
        *(f"{name}/py.typed" for name in NAMES),
    ):
        assert path in names
    assert not any(name.startswith("tests/") for name in names)
