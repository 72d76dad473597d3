"""What a picture or a table has a line for: each kind of device, or each group where there are many kinds."""

from __future__ import annotations

from dataclasses import dataclass

from ..reading import Run

MOST_KINDS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Kinds that are told together: positions in `Run.plans`, and in `Run.left_out`."""

    label: str
    kinds: tuple[int, ...]
    out: tuple[int, ...]

    def devices(self, run: Run) -> int:
        """All devices of the line."""
        return self.able(run) + sum(run.left_out[at].devices for at in self.out)

    def able(self, run: Run) -> int:
        """Those that can train."""
        return sum(run.plans[at].devices for at in self.kinds)


def lines(run: Run) -> tuple[Line, ...]:
    """All devices of the fleet, in lines."""
    by_kind = len(run.plans) + len(run.left_out) <= MOST_KINDS
    kinds: dict[str, list[int]] = {}
    out: dict[str, list[int]] = {}
    for at, plan in enumerate(run.plans):
        kinds.setdefault(plan.name if by_kind else plan.group, []).append(at)
    for at, left in enumerate(run.left_out):
        out.setdefault(left.name if by_kind else left.group, []).append(at)
    return tuple(
        Line(label=label, kinds=tuple(kinds.get(label, ())), out=tuple(out.get(label, ())))
        for label in dict.fromkeys((*kinds, *out))
    )


def able_lines(run: Run) -> tuple[Line, ...]:
    """Those lines of which some device can train."""
    return tuple(line for line in lines(run) if line.kinds)
