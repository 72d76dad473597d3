"""Plans seen before, in a folder: the same graph, costs and budget need no second search.

A file holds a plan, the bound proven for its problem and how long was searched. What is asked for
decides whether that is good enough: a plan proven within the gap asked for always is, any other only
where the search behind it was allowed at least as much time. A file is never trusted: its digest must
match, and its plan must pass `check`. What does not is as good as absent.

A file is never changed. A better solution is written beside what it improves on, with the best of both,
and only then are those removed: writers need no lock, and none of them can lose what another found.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from .backends import Backend
from .check import check
from .errors import BadFile, BadInput, FedpoetError
from .plan import Plan, Solution, Status
from .problem import Cost, Problem
from .solve import solve

ENTRY_FORMAT = "fedpoet-cached-plan"
ENTRY_VERSION = 2
DEFAULT_MOST_BYTES = 64 * 2**20

# The problem's digest, the start of the entry's own, and a random end while the file is being written.
_NAME = re.compile(r"\.?[0-9a-f]{64}-[0-9a-f]{16}\.json(\.[0-9a-f]{8})?")

# What reading a file that is not one of ours may raise.
_DAMAGE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What is known of a problem; `searched_s` is the time limit of the longest search that used it up."""

    plan: Plan
    cost: Cost
    lower_bound_j: float
    searched_s: float
    wall_s: float
    backend: str

    def joined(self, other: _Entry) -> _Entry:
        """The cheaper plan, the higher bound and the longer search."""
        best = min(self, other, key=lambda entry: entry.cost.energy_j)
        return replace(
            best,
            lower_bound_j=max(self.lower_bound_j, other.lower_bound_j),
            searched_s=max(self.searched_s, other.searched_s),
        )

    def solution(self, gap: float) -> Solution:
        """As `solve` would tell it, had it been asked for this gap."""
        energy_j = self.cost.energy_j
        distance = max(0.0, energy_j - self.lower_bound_j) / energy_j if energy_j else 0.0
        return Solution(
            status=Status.OPTIMAL if distance <= gap else Status.FEASIBLE,
            plan=self.plan,
            cost=self.cost,
            lower_bound_j=min(self.lower_bound_j, energy_j),
            gap=distance,
            wall_s=self.wall_s,
            backend=self.backend,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCache:
    """A folder of plans that holds at most `most_bytes`; what was not used for longest goes first.

    A folder that cannot be read or written is an empty cache, not an error.
    """

    folder: Path
    most_bytes: int = DEFAULT_MOST_BYTES

    def get(self, problem: Problem, *, gap: float, time_limit_s: float) -> Solution | None:
        """A checked solution, if one is known that a search with these limits need not improve on."""
        entry = self._known(problem)
        if entry is None:
            return None
        for path in self._files(problem):
            with suppress(OSError):
                os.utime(path)  # used just now
        solution = entry.solution(gap)
        good = solution.status is Status.OPTIMAL or entry.searched_s >= time_limit_s
        return solution if good else None

    def put(
        self, problem: Problem, solution: Solution, *, gap: float, time_limit_s: float
    ) -> Solution:
        """Keep a solution found under these limits; what is now known, the best of old and new."""
        whole = solution.cut_short is None
        entry = _Entry(
            plan=solution.plan,
            cost=solution.cost,
            lower_bound_j=solution.lower_bound_j,
            searched_s=time_limit_s if whole else min(time_limit_s, solution.wall_s),
            wall_s=solution.wall_s,
            backend=solution.backend,
        )
        old = self._files(problem)
        for path in old:
            known = _read(path, problem)
            entry = entry if known is None else entry.joined(known)
        self._write(problem, entry, old)
        return replace(entry.solution(gap), cut_short=solution.cut_short)

    def _known(self, problem: Problem) -> _Entry | None:
        """What the files say together; if a writer replaced them all meanwhile, what it wrote."""
        best: _Entry | None = None
        files: tuple[Path, ...] = ()
        while best is None and (now := self._files(problem)) != files:
            files = now
            for path in files:
                entry = _read(path, problem)
                if entry is not None:
                    best = entry if best is None else best.joined(entry)
        return best

    def _files(self, problem: Problem) -> tuple[Path, ...]:
        """Usually none or one; more where processes wrote at the same time."""
        with suppress(OSError):
            return tuple(sorted(self.folder.glob(f"{problem.digest}-*.json")))
        return ()

    def _write(self, problem: Problem, entry: _Entry, old: tuple[Path, ...]) -> None:
        text = _text(entry, problem)
        path = self.folder / f"{problem.digest}-{text[:16].decode()}.json"
        if len(text) > self.most_bytes:
            return
        from .files import write_atomically

        with suppress(OSError, BadFile):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, text)
            for other in old:
                if other != path:
                    other.unlink(missing_ok=True)
            self._make_room(keep=path)

    def _make_room(self, keep: Path) -> None:
        used = sorted(self._used(), key=lambda file: file[0])
        total = sum(size_bytes for _, size_bytes, _ in used)
        for _, size_bytes, path in used:
            if total > self.most_bytes and path != keep:
                path.unlink(missing_ok=True)
                total -= size_bytes

    def _used(self) -> Iterator[tuple[int, int, Path]]:
        """When each file of ours was used last, its size and path; other files are nobody's here."""
        for path in self.folder.iterdir():
            if _NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    facts = path.stat()
                    yield facts.st_mtime_ns, facts.st_size, path


def cached_solve(
    problem: Problem,
    cache: PlanCache | None,
    *,
    time_limit_s: float = 60.0,
    gap: float = 1e-4,
    backend: Backend | None = None,
    clock: Callable[[], float] = time.monotonic,
    starts: Iterable[Plan] = (),
    on_plan: Callable[[Plan, float], None] | None = None,
) -> Solution:
    """`solve`, unless the cache knows a solution that is good enough; without a cache, just `solve`.

    A solution from the cache says so in `backend`, and its `wall_s` is the time of looking it up. One
    that is not good enough is where the search starts.
    """
    began = clock()
    known = None if cache is None else cache.get(problem, gap=gap, time_limit_s=time_limit_s)
    if known is not None:
        backend_name = f"{known.backend} (from the cache)"
        return replace(known, wall_s=clock() - began, backend=backend_name)
    weaker = None if cache is None else cache.get(problem, gap=gap, time_limit_s=0.0)
    solution = solve(
        problem,
        time_limit_s=time_limit_s,
        gap=gap,
        backend=backend,
        clock=clock,
        starts=(*starts, weaker.plan) if weaker else tuple(starts),
        on_plan=on_plan,
    )
    if cache is None:
        return solution
    return cache.put(problem, solution, gap=gap, time_limit_s=time_limit_s)


def default_cache_folder(
    environ: Mapping[str, str] = os.environ, platform: str = sys.platform
) -> Path:
    """Where this platform keeps what can be made again: XDG_CACHE_HOME or ~/.cache, and their likes."""
    if platform == "win32" and (local := environ.get("LOCALAPPDATA")):
        return Path(local) / "fedpoet" / "Cache"
    given = Path(environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():  # the convention: a relative path is ignored
        return given / "fedpoet"
    try:
        home = Path.home()
    except RuntimeError as error:
        raise BadInput(
            "no home folder is known, so there is no place for plans seen before: set XDG_CACHE_HOME"
        ) from error
    return home / ("Library/Caches" if platform == "darwin" else ".cache") / "fedpoet"


def _text(entry: _Entry, problem: Problem) -> bytes:
    """What is in a file: the digest of all that follows, then what is known, a line each."""
    from .files import plan_document

    content = {
        "format": ENTRY_FORMAT,
        "version": ENTRY_VERSION,
        "problem_digest": problem.digest,
        "lower_bound_j": entry.lower_bound_j,
        "searched_s": entry.searched_s,
        "wall_s": entry.wall_s,
        "backend": entry.backend,
        "plan": plan_document(entry.plan),
    }
    line = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return b"%s\n%s\n" % (_digest(line), line)


def _digest(line: bytes) -> bytes:
    return sha256(line).hexdigest().encode()


def _read(path: Path, problem: Problem) -> _Entry | None:
    """The entry in a file, its plan checked; None if it is damaged, foreign or not valid."""
    # Here, not above: who imports scheduler without files, as a solver's process, needs no pydantic.
    from .files import plan_from

    try:
        digest, line, end = path.read_bytes().split(b"\n")
        if end or _digest(line) != digest:
            return None
        content = json.loads(line)
        named = (content["format"], content["version"], content["problem_digest"])
        if named != (ENTRY_FORMAT, ENTRY_VERSION, problem.digest):
            return None
        # The plan's own digest would say what that of the line has said.
        plan = plan_from(content["plan"], path)
        used = check(plan, problem)
        return _Entry(
            plan=plan,
            cost=Cost(time_s=used.time_s, energy_j=used.energy_j),
            lower_bound_j=float(content["lower_bound_j"]),
            searched_s=float(content["searched_s"]),
            wall_s=float(content["wall_s"]),
            backend=str(content["backend"]),
        )
    except (OSError, FedpoetError, *_DAMAGE):
        return None
