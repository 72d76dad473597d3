from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from protos.arrays import read_arrays
from scheduler.errors import BadFile, BadInput
from server.coordinator.journal import FILE, MODELS, STATES, opened
from server.rules import Late, Rules
from server.strategy import make_strategy
from tests.server.test_rounds import INITIAL, run
from tests.server.test_rules import fleet

RULES = [Rules(), Rules(cohort=3, late=Late.ADD, deadline_s=3), Rules(cohort=3, buffer=2)]


def journaled(journal, grid, rounds, **changes):
    resume = journal.resume()
    return run(
        grid,
        num_rounds=rounds,
        resume=resume,
        on_cohort=journal.note_cohort,
        on_round=journal.note_round,
        **({"strategy": make_strategy("fedadam"), "seed": 4} | changes),
    )


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("strategy", ["fedadam", "fedavgm"])
def test_a_run_goes_on_from_the_disk_as_if_it_had_not_stopped(tmp_path, rules, strategy):
    whole = run(fleet(), rules=rules, num_rounds=6, strategy=make_strategy(strategy), seed=4)
    grid = fleet()
    for rounds in (1, 2, 5, 6):
        with opened(tmp_path) as journal:
            journal.start({"seed": 4})
            changes = {"rules": rules, "strategy": make_strategy(strategy)}
            got = journaled(journal, grid, rounds, **changes)
    for name in INITIAL:
        assert got.arrays[name].tobytes() == whole.arrays[name].tobytes()
    with opened(tmp_path) as journal:
        entries = journal.entries()
        assert [e.number for e in entries] == list(range(7))
        assert entries[3].record["cohort"] == list(whole.rounds[3].cohort)
        newest = read_arrays(journal.model(6))
        assert newest["w"].tobytes() == whole.arrays["w"].tobytes()


def test_a_cohort_noted_before_the_stop_is_the_next_rounds(tmp_path):
    with opened(tmp_path) as journal:
        journaled(journal, fleet(), 1)
        journal.note_cohort(2, (2, 5))
        assert journal.resume().cohort == (2, 5)
        grid = fleet()
        journaled(journal, grid, 2)
        assert grid.asked == [[2, 5]]
        assert journal.resume().cohort is None


def test_other_settings_are_refused_by_name(tmp_path):
    with opened(tmp_path) as journal:
        journal.start({"seed": 4, "rounds": 3})
        journal.start({"seed": 4, "rounds": 3})
        with pytest.raises(BadInput, match="seed was 4 and is 5"):
            journal.start({"seed": 5, "rounds": 3})


def test_one_process_at_a_time(tmp_path):
    with opened(tmp_path), pytest.raises(BadInput, match="another coordinator"), opened(tmp_path):
        pass
    with opened(tmp_path):
        pass


def test_rolling_back_goes_on_from_the_older_model_and_keeps_the_record(tmp_path):
    with opened(tmp_path) as journal:
        first = journaled(journal, fleet(), 4)
        assert first.rounds[-1].number == 4
        journal.roll_back(2)
        progress = journal.resume()
        assert progress.number == 2
        assert progress.pending == ()
        two = read_arrays(journal.model(2))
        assert progress.arrays["w"].tobytes() == two["w"].tobytes()
        with pytest.raises(BadInput, match="not 3"):
            journal.model(3)
        again = journaled(journal, fleet(), 4, strategy=make_strategy("fedavg"))
        assert [r.number for r in again.rounds] == [3, 4]
        entries = journal.entries()
        assert [(e.number, e.rolled_back) for e in entries] == [
            (0, False),
            (1, False),
            (2, False),
            (3, True),
            (4, True),
            (3, False),
            (4, False),
        ]
        assert journal.model(4).stem == "00000006"


def test_skipped_rounds_share_the_model_before_them(tmp_path):
    rules = Rules(least_updates=7, deadline_s=1, most_skipped=9)
    with opened(tmp_path) as journal:
        journaled(journal, fleet(), 2, rules=rules)
        assert [e.model for e in journal.entries()] == [0, 0, 0]
        assert len(list((tmp_path / MODELS).iterdir())) == 1
        assert journal.resume().skipped == 2


def test_only_models_that_are_needed_are_kept(tmp_path):
    with opened(tmp_path) as journal:
        journaled(journal, fleet(), 5)
        journal.keep_models(2)
        assert sorted(p.stem for p in (tmp_path / MODELS).iterdir()) == ["00000004", "00000005"]
        assert journal.resume().number == 5
        with pytest.raises(BadInput, match="was not kept"):
            journal.roll_back(1)


def test_files_that_no_round_names_are_deleted_and_damage_is_told(tmp_path):
    with opened(tmp_path) as journal:
        journaled(journal, fleet(), 1)
    stray = tmp_path / MODELS / "00000099.safetensors"
    draft = tmp_path / STATES / ".00000003.safetensors.0a"
    for path in (stray, draft):
        path.write_bytes(b"half")
    with opened(tmp_path) as journal:
        assert not stray.exists()
        assert not draft.exists()
        (tmp_path / MODELS / "00000001.safetensors").write_bytes(b"damaged")
        with pytest.raises(BadFile, match="cannot be read"):
            journal.resume()
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(BadFile, match="cannot be used as a journal"), opened(tmp_path):
        pass


KILLED = """
    import os, sys
    from pathlib import Path
    import server.coordinator.journal as journal
    from tests.server.coordinator.test_journal import journaled, fleet

    count, real = [0], journal.make_atomically

    def dies(*args, **kwargs):
        count[0] += 1
        if count[0] == int(sys.argv[2]):
            half = args[0].with_name(".half")
            args[1](half)
            os.truncate(half, 10)
            os.kill(os.getpid(), 9)
        real(*args, **kwargs)

    journal.make_atomically = dies
    with journal.opened(Path(sys.argv[1])) as kept:
        journaled(kept, fleet(), 3)
"""


@pytest.mark.parametrize("write", [1, 2, 4, 5, 8])
def test_killed_between_any_two_writes(tmp_path, write):
    code = textwrap.dedent(KILLED)
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(write)], check=False)
    assert ended.returncode == -9
    whole = run(fleet(), num_rounds=3, strategy=make_strategy("fedadam"), seed=4)
    with opened(tmp_path) as journal:
        got = journaled(journal, fleet(), 3)
    assert got.arrays["w"].tobytes() == whole.arrays["w"].tobytes()


def test_large_node_ids_and_numbers_that_are_none_survive(tmp_path):
    with opened(tmp_path) as journal:
        ran = run(fleet(1), rules=Rules(), num_rounds=1)
        node = 2**64 - 1
        pending = tuple(replace(p, node=node) for p in ran.progress[-1].pending)
        done = replace(ran.rounds[1], cohort=(node,), evaluation={"loss": float("nan")})
        journal.note_round(done, replace(ran.progress[-1], pending=pending))
        assert journal.resume().history.rows["node"].tolist() == [1]
        entry = journal.entries()[-1]
        assert entry.record["cohort"] == [node]
        assert np.isnan(entry.record["evaluation"]["loss"])
