"""Plans seen before: good enough or searched again, never wrong, whatever lies in the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler import (
    Budget,
    Cost,
    Infeasible,
    Plan,
    PlanCache,
    Problem,
    Solution,
    Status,
    cached_solve,
    check,
    default_cache_folder,
    page_all,
    replay,
    solve,
)
from scheduler.backends import Highs, Outcome, Verdict
from scheduler.errors import BadInput
from tests.scheduler.problems import chain
from tests.strategies import problems

REPOSITORY = Path(__file__).parents[2]
ASKED = {"gap": 1e-4, "time_limit_s": 60.0}
PROBLEM = replace(chain(), budget=Budget(ram_bytes=39))


def found(plan: Plan, lower_bound_j: float, cut_short: str | None = None) -> Solution:
    used = replay(plan, PROBLEM)
    return Solution(
        status=Status.FEASIBLE,
        plan=plan,
        cost=Cost(time_s=used.time_s, energy_j=used.energy_j),
        lower_bound_j=lower_bound_j,
        gap=1 - lower_bound_j / used.energy_j,
        wall_s=2.0,
        backend="a solver",
        cut_short=cut_short,
    )


BEST = solve(PROBLEM, backend=Highs()).plan
DEAR = page_all(PROBLEM)


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(folder=tmp_path / "below" / "plans")


class Idle:
    """A solver whose time is up before it began; counts how often it was asked."""

    name = "idle"

    def __init__(self) -> None:
        self.asked = 0

    def run(self, program: object, **options: object) -> Outcome:
        self.asked += 1
        return Outcome(verdict=Verdict.UNKNOWN, bound=None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems())
def test_what_was_solved_once_is_not_solved_again(
    tmp_path_factory: pytest.TempPathFactory, problem: Problem
) -> None:
    cache = PlanCache(folder=tmp_path_factory.mktemp("plans"))
    try:
        first = cached_solve(problem, cache, backend=Highs())
    except Infeasible:
        return
    idle = Idle()
    again = cached_solve(replace(problem), cache, backend=idle)
    assert idle.asked == 0
    assert again == replace(first, wall_s=again.wall_s, backend=f"{first.backend} (from the cache)")
    other = replace(problem, budget=Budget(ram_bytes=problem.budget.ram_bytes + 1))
    assert cache.get(other, **ASKED) is None


def test_without_a_cache_it_solves(cache: PlanCache) -> None:
    idle = Idle()
    assert cached_solve(PROBLEM, None, backend=idle).plan
    assert idle.asked > 0
    assert not cache.folder.exists()


@given(st.permutations([(DEAR, 11.0, 5.0), (BEST, 10.0, 1.0), (DEAR, 10.5, 60.0)]))
def test_in_any_order_the_best_plan_and_the_best_bound_stay(
    tmp_path_factory: pytest.TempPathFactory, order: list[tuple[Plan, float, float]]
) -> None:
    cache = PlanCache(folder=tmp_path_factory.mktemp("plans"))
    for plan, bound_j, limit_s in order:
        told = cache.put(PROBLEM, found(plan, bound_j), gap=1e-4, time_limit_s=limit_s)
    known = cache.get(PROBLEM, gap=1e-4, time_limit_s=60.0)
    assert known == told
    assert known.plan == BEST
    assert known.lower_bound_j == min(11.0, known.cost.energy_j)
    assert len(list(cache.folder.iterdir())) == 1


def test_feasible_is_returned_only_after_as_long_a_search(cache: PlanCache) -> None:
    assert found(BEST, 10.0).gap > 0.01
    cache.put(PROBLEM, found(BEST, 10.0), gap=1e-4, time_limit_s=10.0)
    known = cache.get(PROBLEM, gap=1e-4, time_limit_s=10.0)
    assert known is not None
    assert known.status is Status.FEASIBLE
    assert cache.get(PROBLEM, gap=1e-4, time_limit_s=10.1) is None
    proven = cache.get(PROBLEM, gap=known.gap, time_limit_s=1e6)
    assert proven is not None
    assert proven.status is Status.OPTIMAL


def test_a_search_cut_short_counts_for_the_time_it_took(cache: PlanCache) -> None:
    cut = found(BEST, 10.0, cut_short="interrupted")
    assert cache.put(PROBLEM, cut, **ASKED).cut_short == "interrupted"
    assert cache.get(PROBLEM, gap=1e-4, time_limit_s=cut.wall_s) is not None
    assert cache.get(PROBLEM, gap=1e-4, time_limit_s=cut.wall_s + 0.1) is None


def test_what_is_known_is_where_the_search_starts(cache: PlanCache) -> None:
    solved = solve(PROBLEM, backend=Highs())
    weak = replace(solved, lower_bound_j=1.0, cut_short="interrupted", wall_s=0.5)
    cache.put(PROBLEM, weak, **ASKED)
    idle = Idle()
    assert cached_solve(PROBLEM, cache, backend=idle).plan == solved.plan
    assert idle.asked > 0


# ---- whatever lies in the folder


@pytest.fixture
def entry(cache: PlanCache) -> Path:
    cache.put(PROBLEM, found(BEST, 11.0), **ASKED)
    (path,) = cache.folder.iterdir()
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_no_file(cache: PlanCache, entry: Path, data: st.DataObject) -> None:
    whole = entry.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:at]
    else:
        bit = 1 << data.draw(st.integers(0, 7))
        damaged = whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
    entry.write_bytes(damaged)
    try:
        assert cache.get(PROBLEM, **ASKED) is None
    finally:
        entry.write_bytes(whole)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff\x00",
        b"[" * 100_000,
        b"[" * 500 + b"]" * 500,
        b'{"plan": NaN}',
    ],
)
def test_a_foreign_file_is_overwritten(cache: PlanCache, entry: Path, content: bytes) -> None:
    entry.write_bytes(content)
    assert cache.get(PROBLEM, **ASKED) is None
    told = cache.put(PROBLEM, found(BEST, 11.0), **ASKED)
    assert cache.get(PROBLEM, **ASKED) == told
    assert [p for p in cache.folder.iterdir() if p.read_bytes() == content] == []


def test_the_file_of_another_problem_is_not_taken(cache: PlanCache, entry: Path) -> None:
    wider = replace(PROBLEM, budget=Budget(ram_bytes=50))
    name = entry.name.replace(PROBLEM.digest, wider.digest)
    (cache.folder / name).write_bytes(entry.read_bytes())
    assert cache.get(wider, **ASKED) is None


def test_a_plan_that_breaks_a_rule_is_not_taken(cache: PlanCache) -> None:
    """Even if every digest is right."""
    broken = replace(BEST, steps=BEST.steps[1:])
    cache.put(PROBLEM, replace(found(BEST, 11.0), plan=broken), **ASKED)
    assert cache.get(PROBLEM, **ASKED) is None
    assert cached_solve(PROBLEM, cache, backend=Highs()).plan == BEST
    known = cache.get(PROBLEM, **ASKED)
    assert known is not None
    check(known.plan, PROBLEM)


def test_a_folder_where_the_file_should_be_is_harmless(cache: PlanCache, entry: Path) -> None:
    entry.unlink()
    entry.mkdir()
    assert cache.get(PROBLEM, **ASKED) is None
    assert cached_solve(PROBLEM, cache, backend=Highs()).plan == BEST


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = PlanCache(folder=tmp_path / "file" / "plans")
    assert cached_solve(PROBLEM, cache, backend=Highs()).plan == BEST
    assert cache.get(PROBLEM, **ASKED) is None


# ---- size and company


def test_what_was_not_used_for_longest_goes_first(cache: PlanCache, entry: Path) -> None:
    size_bytes = entry.stat().st_size
    stranger = cache.folder / "notes.txt"
    stranger.write_bytes(b"x" * 10 * size_bytes)
    small = replace(cache, most_bytes=int(3.5 * size_bytes))
    others = [replace(PROBLEM, budget=Budget(ram_bytes=40 + n)) for n in range(1, 5)]
    for age_s, problem in enumerate(others[:2]):
        cached_solve(problem, small, backend=Highs())
        for path in cache.folder.glob(f"{problem.digest}*"):
            os.utime(path, (1000.0 + age_s, 1000.0 + age_s))
    os.utime(entry, (1.0, 1.0))
    draft = cache.folder / f".{entry.name}.0123abcd"  # of a writer that was killed
    draft.touch()
    os.utime(draft, (0.0, 0.0))
    assert small.get(PROBLEM, **ASKED) is not None  # the oldest, but used now
    cached_solve(others[2], small, backend=Highs())
    kept = [small.get(p, **ASKED) is not None for p in (PROBLEM, *others[:3])]
    assert kept == [True, False, True, True]
    assert stranger.exists()
    assert not draft.exists()
    tiny = replace(cache, most_bytes=size_bytes // 2)
    cached_solve(others[3], tiny, backend=Highs())
    assert tiny.get(others[3], **ASKED) is None


WRITER = """
import sys
from pathlib import Path
from scheduler import PlanCache, check
from tests.scheduler.test_cache import ASKED, BEST, DEAR, PROBLEM, found
cache = PlanCache(folder=Path(sys.argv[1]))
me = int(sys.argv[2])
for turn in range(40):
    plan = BEST if (me, turn) == (1, 20) else DEAR
    bound_j = 10.0 + 0.5 * (me == 2 and turn == 10) + 0.001 * turn
    cache.put(PROBLEM, found(plan, bound_j), **ASKED)
    known = cache.get(PROBLEM, **ASKED)
    assert known is not None
    check(known.plan, PROBLEM)
"""


def test_writers_at_the_same_time_lose_nothing(cache: PlanCache) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(cache.folder), str(n)], cwd=REPOSITORY)
        for n in range(4)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    known = cache.get(PROBLEM, **ASKED)
    assert known is not None
    assert known.plan == BEST
    assert known.lower_bound_j == pytest.approx(10.51)


@pytest.mark.parametrize(
    ("environ", "platform", "folder"),
    [
        ({"XDG_CACHE_HOME": "/fast"}, "linux", Path("/fast/fedpoet")),
        ({"XDG_CACHE_HOME": "relative"}, "linux", Path.home() / ".cache/fedpoet"),
        ({}, "linux", Path.home() / ".cache/fedpoet"),
        ({}, "darwin", Path.home() / "Library/Caches/fedpoet"),
        ({"LOCALAPPDATA": "/users/me"}, "win32", Path("/users/me/fedpoet/Cache")),
    ],
)
def test_the_default_folder_is_the_platforms(
    environ: dict[str, str], platform: str, folder: Path
) -> None:
    assert default_cache_folder(environ, platform) == folder


def test_without_a_home_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(BadInput, match="XDG_CACHE_HOME"):
        default_cache_folder({}, "linux")
