"""A solver in a process of its own: real crashes, hangs, kills and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler.backends import Highs, Isolated, Outcome, Program, Verdict, minimize, opened
from scheduler.backends.program import program_of
from tests.processes import HEAR_CTRL_C
from tests.scheduler.backends.faults import Faulty, write_whole
from tests.scheduler.backends.models import ASKED, knapsack, packing

REPOSITORY = Path(__file__).parents[3]


def small() -> Program:
    model = knapsack()
    return program_of(model, model.variables())


def ran(backend: Faulty, *, time_limit_s: float = 30.0, grace_s: float = 2.0) -> Outcome:
    isolated = Isolated(backend, grace_s=grace_s)
    return isolated.run(small(), start=None, time_limit_s=time_limit_s, gap=0.0)


def children() -> set[int]:
    """Processes that this one started, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            after_name = stat.read_text().rpartition(")")[2].split()
            if int(after_name[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def wait_until_gone(pids: list[int], timeout_s: float = 20.0) -> None:
    end_s = time.monotonic() + timeout_s
    while any(map(is_alive, pids)):
        assert time.monotonic() < end_s, f"still running: {[p for p in pids if is_alive(p)]}"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> object:
    processes, threads, files = (
        children(),
        threading.active_count(),
        open_files(),
    )
    yield
    assert children() == processes
    assert threading.active_count() == threads
    assert open_files() == files


def test_it_answers_what_the_solver_answers() -> None:
    here, there = knapsack(), knapsack()
    inside = minimize(Highs(), here, **ASKED)
    outside = minimize(Isolated(Highs()), there, **ASKED)
    assert outside == inside
    assert [v.varValue for v in there.variables()] == [v.varValue for v in here.variables()]
    relaxed = minimize(Isolated(Highs()), there, relaxed=True, **ASKED)
    assert relaxed == minimize(Highs(), here, relaxed=True, **ASKED)
    assert Isolated(Highs()).name == Highs().name


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("abort", "SIGABRT"),
        ("segfault", "SIGSEGV"),
        ("kill", "SIGKILL (out of memory, perhaps)"),
        ("exit", "exit code 3"),
        ("fail", "RuntimeError: wrong basis"),
        ("fill_memory", "MemoryError"),
        ("print", "SIGABRT"),
    ],
)
def test_a_crash_leaves_what_was_reported(
    harm: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[Outcome] = []
    isolated = Isolated(Faulty(harm=harm))
    outcome = isolated.run(small(), start=None, time_limit_s=30, gap=0.0, report=heard.append)
    assert outcome.verdict is Verdict.FEASIBLE
    assert outcome.values == (0.0, 0.0, 0.0)
    assert outcome.bound == -2.0
    assert outcome.cut_short is not None
    assert told in outcome.cut_short
    assert not outcome.interrupted
    assert [o.bound for o in heard] == [-3.0, -2.0]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("log", [True, False])
def test_what_the_solver_prints_goes_to_standard_error_or_nowhere(
    log: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    Isolated(Highs(log=True), log=log).run(small(), **ASKED)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("Running HiGHS" in err) == log


@pytest.mark.parametrize("harm", ["sleep", "stop"])
def test_a_hang_ends_soon_after_the_time_limit(harm: str) -> None:
    began_s = time.monotonic()
    outcome = ran(Faulty(harm=harm), time_limit_s=5.0, grace_s=0.5)
    assert 5.4 < time.monotonic() - began_s < 20.0
    assert outcome.values == (0.0, 0.0, 0.0)
    assert outcome.bound == -2.0
    assert outcome.cut_short == "the solver did not end at its time limit"


def test_a_backend_that_cannot_travel_is_refused_at_once() -> None:
    @dataclass(frozen=True)
    class Unknown:
        """Made inside a function: the child could not import it."""

    with pytest.raises((AttributeError, TypeError), match=r"Unknown|pickle"):
        Isolated(Unknown()).run(small(), start=None, time_limit_s=5, gap=0.0)  # type: ignore[arg-type]


UNIMPORTABLE = """
from dataclasses import dataclass
from scheduler.backends import Isolated
from tests.scheduler.backends.test_isolated import small

@dataclass(frozen=True)
class Mine:
    def run(self, *program, **asked):
        raise AssertionError

print(Isolated(Mine()).run(small(), start=None, time_limit_s=30, gap=0.0).cut_short)
"""


def test_a_backend_of_the_main_module_is_told_from_a_crash() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNIMPORTABLE],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("the solver failed: AttributeError: Can't get attribute 'Mine'")
    assert done.stderr == ""


def test_runs_in_a_row_share_a_process_until_something_happens_to_it() -> None:
    before = children()
    model = knapsack()
    program = program_of(model, model.variables())
    with opened(Isolated(Highs())) as session:
        first = session.run(program, **ASKED)
        (process,) = children() - before
        assert session.run(program, relaxed=True, **ASKED).bound == pytest.approx(-7.75)
        assert children() - before == {process}
        os.kill(process, signal.SIGKILL)
        assert "SIGKILL" in str(session.run(program, **ASKED).cut_short)
        assert children() == before
        assert session.run(program, **ASKED) == first
        assert children() - before != {process}
        assert session.name == Highs().name
    with opened(Highs()) as plain:
        assert plain == Highs()


def test_no_process_no_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    outcome = ran(Faulty(harm="sleep"))
    assert outcome.verdict is Verdict.UNKNOWN
    assert "could not be started" in str(outcome.cut_short)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    outcome = ran(Faulty(harm="sleep"))
    assert outcome.verdict is Verdict.UNKNOWN
    assert outcome.cut_short == "the solver's process ended with exit code 1"


def test_processes_of_the_solver_end_with_it(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    outcome = ran(Faulty(harm="start_another_and_crash", path=noted))
    assert "SIGABRT" in str(outcome.cut_short)
    wait_until_gone([int(pid) for pid in noted.read_text().split()])


def test_highs_killed_in_the_middle_leaves_a_solution_and_a_bound() -> None:
    model = packing(300, 30)
    program = program_of(model, model.variables())
    before = children()

    heard = Outcome(verdict=Verdict.UNKNOWN, bound=None)

    def kill_once_both_are_known(found: Outcome) -> None:
        nonlocal heard
        heard = heard.joined(found)
        if heard.values is not None and heard.bound is not None:
            for pid in children() - before:
                os.kill(pid, signal.SIGKILL)

    outcome = Isolated(Highs()).run(
        program, start=None, time_limit_s=60, gap=0.0, report=kill_once_both_are_known
    )
    assert "SIGKILL" in str(outcome.cut_short)
    assert outcome.verdict is Verdict.FEASIBLE
    assert outcome.values is not None
    assert outcome.bound is not None
    for variable, value in zip(model.variables(), outcome.values, strict=True):
        variable.varValue = value
    assert model.valid(1e-6)
    assert outcome.bound <= model.objective.value() + 1e-6


def test_files_of_a_solver_that_crashes_are_removed(tmp_path: Path) -> None:
    outcome = ran(Faulty(harm="write_file", path=tmp_path / "folder"))
    assert "SIGABRT" in str(outcome.cut_short)
    assert not Path((tmp_path / "folder").read_text()).exists()


PARENT = """
import sys
from pathlib import Path
from tests.scheduler.backends.test_isolated import Faulty, ran
outcome = ran(Faulty(harm="start_another", path=Path(sys.argv[1])), time_limit_s=600)
print(outcome.verdict, outcome.cut_short, outcome.interrupted, outcome.bound, outcome.values)
"""


def note_the_solver(noted: Path) -> None:
    """Write down the solver's process once HiGHS is at work in it."""

    def note() -> None:
        while not (found := children()):
            time.sleep(0.02)
        time.sleep(3.0)
        write_whole(noted, " ".join(map(str, found)))

    threading.Thread(target=note, daemon=True).start()


BUSY = """
import sys
from pathlib import Path
from scheduler.backends import Highs, Isolated
from scheduler.backends.program import program_of
from tests.scheduler.backends.faults import write_whole
from tests.scheduler.backends.models import packing
from tests.scheduler.backends.test_isolated import children
model = packing(300, 30)
program = program_of(model, model.variables())
noted = Path(sys.argv[1])

def note(found):
    if found.values is not None and not noted.exists():
        write_whole(noted, " ".join(map(str, children())))

outcome = Isolated(Highs()).run(program, start=None, time_limit_s=600, gap=0.0, report=note)
print(outcome.verdict, outcome.cut_short)
"""

PLANNING = """
import sys
from pathlib import Path
from scheduler import check, solve
from scheduler.backends import Highs, Isolated
from tests.scheduler.backends.test_isolated import note_the_solver
from tests.scheduler.problems import tangled
note_the_solver(Path(sys.argv[1]))
problem = tangled()
solution = solve(problem, backend=Isolated(Highs()), time_limit_s=600)
check(solution.plan, problem)
assert 0.0 < solution.gap < 0.5, solution.gap
print(solution.status)
"""


COMMAND = """
import sys
from pathlib import Path
from scheduler.__main__ import main
from scheduler.files import write_problem
from tests.scheduler.backends.test_isolated import note_the_solver
from tests.scheduler.problems import tangled
noted = Path(sys.argv[1])
problem = noted.with_name("problem.json")
write_problem(tangled(), problem)
note_the_solver(noted)
sys.argv[1:] = ["plan", "--problem", str(problem), "--time-limit", "600"]
main()
"""


def start_parent(code: str, noted: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A planner in a process group of its own, and the processes of its solver."""
    parent = subprocess.Popen(
        [sys.executable, "-c", HEAR_CTRL_C + code, str(noted)],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(noted.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end_s = time.monotonic() + 60
    while not noted.exists():
        assert parent.poll() is None, parent.communicate()
        assert time.monotonic() < end_s
        time.sleep(0.02)
    return parent, [int(pid) for pid in noted.read_text().split()]


@pytest.mark.parametrize("code", [PARENT, BUSY], ids=["another program", "HiGHS"])
def test_the_solver_ends_when_its_planner_is_killed(tmp_path: Path, code: str) -> None:
    parent, solver = start_parent(code, tmp_path / "pids")
    assert solver
    with parent:
        parent.kill()
        parent.communicate()
    wait_until_gone(solver)
    assert not list(tmp_path.glob("fedpoet-solver-*"))


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        (PARENT, "feasible interrupted True -2.0 (0.0, 0.0, 0.0)\n"),
        (BUSY, "feasible interrupted\n"),
        (PLANNING, "feasible\n"),
        (COMMAND, "status         feasible"),
    ],
    ids=["another program", "HiGHS", "solve", "python -m scheduler plan"],
)
def test_ctrl_c_gives_what_was_found_and_no_traceback(
    tmp_path: Path, code: str, printed: str
) -> None:
    parent, solver = start_parent(code, tmp_path / "pids")
    with parent:
        os.killpg(parent.pid, signal.SIGINT)
        out, err = parent.communicate(timeout=30)
    assert parent.returncode == 0
    assert out.startswith(printed)
    assert err == ""
    wait_until_gone(solver)
    assert not list(tmp_path.glob("fedpoet-solver-*"))
