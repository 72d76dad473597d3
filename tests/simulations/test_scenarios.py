"""Golden scenarios: fleets in scenarios/*.toml, and what the command says and writes of them in *.txt.

Without training, so that nothing depends on a machine's arithmetic of matrices. After a change that is meant,
`python -m tests.simulations.test_scenarios` writes the expected texts anew; look at what it changed.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import pytest

from simulations.cli import main
from simulations.reading import read_run

SCENARIOS = Path(__file__).parent / "scenarios"
NAMES = sorted(path.stem for path in SCENARIOS.glob("*.toml"))


def played(name: str, folder: Path) -> str:
    """What the command prints, then a line per round and per message from what it wrote."""
    arguments = [
        *("simulate", "--workload", "digits", "--rounds", "5", "--seed", "7", "--no-training"),
        *("--fleet", str(SCENARIOS / f"{name}.toml"), "--out", str(folder / "run")),
    ]
    out = io.StringIO()
    before, sys.argv = sys.argv, ["fedpoet", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main()
    finally:
        sys.argv = before
    said = [line.rstrip() for line in out.getvalue().splitlines() if not line.startswith("wrote ")]
    run = read_run(folder / "run")
    rounds = [
        f"round {r.round}: {r.start_s:.6f} to {r.end_s:.6f} s, {r.online} online, {r.asked} asked, "
        f"{r.waiting} waiting, {dict(r.outcomes)}, {r.energy_j:.6f} J"
        for r in run.rounds
    ]
    names = [plan.name for plan in run.plans]
    messages = [
        f"round {m['asked_in']} -> {m['round']}, node {m['node']} ({names[m['kind']]}): "
        f"outcome {m['outcome']}, {m['steps']} steps, sent {m['sent_s']:.6f}, "
        f"waited {m['wait_down_s'] + m['wait_up_s']:.6f}, down {m['down_s']:.6f}, "
        f"trained {m['train_s']:.6f}, up {m['up_s']:.6f}, ended {m['end_s']:.6f} s, "
        f"{m['train_j']:.6f} + {m['radio_j']:.6f} J, battery {m['battery_after']:.6f}"
        for m in run.journeys
    ]
    return "\n".join([*said, "", *rounds, "", *messages]) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_scenario(name, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert played(name, tmp_path) == (SCENARIOS / f"{name}.txt").read_text()


if __name__ == "__main__":
    os.environ["COLUMNS"] = "120"
    for scenario in sys.argv[1:] or NAMES:
        with tempfile.TemporaryDirectory() as made:
            (SCENARIOS / f"{scenario}.txt").write_text(played(scenario, Path(made)))
