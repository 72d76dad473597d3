"""Every error that fedpoet raises on purpose.

FedpoetError                    exit code
├── BadInput                        2     the command line, a file, a workload or a device is wrong
│   ├── UnknownName                 2     no device profile, workload or operator of that name
│   ├── BadFile                     2     a problem, plan or profile file that cannot be read as one
│   └── BadGraph                    2     operators and tensors that do not form a training graph
├── Untraceable                     3     the model cannot be turned into a graph of operators
├── Infeasible                      4     no plan fits; carries the floor
├── NoPlanInTime                    5     the time limit ended before any plan was found
├── InvalidPlan                     6     the plan breaks a rule of `check`
├── BudgetExceeded                  7     executing a step would hold more RAM than the budget
├── PageStoreError                  8     the page store cannot be used
│   ├── PageStoreFull               8     no space left for a page
│   └── DamagedPage                 8     a page is not what was written
├── BadUpdate                       9     an update with NaN, a missing array or another shape
├── Refused                         10    something that is not an update tried to leave the device
├── RunFailed                       11    a federation ended before its last round
├── Untrusted                       12    a certificate, ticket or signature that does not hold
├── BadMessage                      13    what came over the device service breaks its rules
├── StateError                      14    what a device keeps on disk cannot be used
│   └── DamagedState                14    it is not what the device wrote there
├── ConnectionLost                  15    the coordinator cannot be reached, or went away
└── TurnedAway                      16    the coordinator refuses this device, or what it asks for

Exit code 0 is success and 1 is a fault of fedpoet itself (a traceback: please report it).
"""

from __future__ import annotations


class FedpoetError(Exception):
    """Base of every error fedpoet raises on purpose; `exit_code` is what the command ends with."""

    exit_code = 1


class BadInput(FedpoetError):
    """What the user gave cannot be used."""

    exit_code = 2


class UnknownName(BadInput):
    """A name that nothing here has."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...]) -> None:
        self.kind, self.name, self.known = kind, name, known
        super().__init__(f"no {kind} named {name!r}; known: {', '.join(known) or 'none'}")


class BadFile(BadInput):
    """A file that cannot be read as what it should be."""


class BadGraph(BadInput):
    """Operators and tensors that do not form a training graph."""


class Untraceable(FedpoetError):
    """The model cannot be turned into a graph of operators."""

    exit_code = 3


class Infeasible(FedpoetError):
    """No plan keeps within the budget.

    `floor_bytes` is the least RAM with which a plan exists at all (no deadline) and `operator` the
    operator that sets it. `least_time_s` is set instead when the deadline is what cannot be met.
    """

    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        floor_bytes: int | None = None,
        operator: str | None = None,
        least_time_s: float | None = None,
    ) -> None:
        self.floor_bytes, self.operator, self.least_time_s = floor_bytes, operator, least_time_s
        super().__init__(message)


class NoPlanInTime(FedpoetError):
    """The time limit ended before any plan was found."""

    exit_code = 5


class InvalidPlan(FedpoetError):
    """The plan breaks a rule; `rule` names it and `step` is the position in the plan, if there is one."""

    exit_code = 6

    def __init__(self, rule: str, message: str, step: int | None = None) -> None:
        self.rule, self.step = rule, step
        where = "" if step is None else f" at step {step}"
        super().__init__(f"{rule}{where}: {message}")


class BudgetExceeded(FedpoetError):
    """Executing a step would hold more RAM than the budget."""

    exit_code = 7


class PageStoreError(FedpoetError):
    """The page store cannot be used."""

    exit_code = 8


class PageStoreFull(PageStoreError):
    """No space is left for a page."""


class DamagedPage(PageStoreError):
    """A page is not what was written."""


class BadUpdate(FedpoetError):
    """An update that must not be aggregated."""

    exit_code = 9


class Refused(FedpoetError):
    """Something that is not on the closed list of record types tried to leave the device."""

    exit_code = 10


class RunFailed(FedpoetError):
    """A federation that ended before its last round."""

    exit_code = 11


class Untrusted(FedpoetError):
    """A certificate, ticket or signature that does not hold: nothing that comes with it may be used."""

    exit_code = 12


class BadMessage(FedpoetError):
    """A message, chunk or blob that breaks the rules of the device service; `reason` is one word for it."""

    exit_code = 13

    def __init__(self, message: str, *, reason: str = "malformed") -> None:
        self.reason = reason
        super().__init__(message)


class StateError(FedpoetError):
    """What a device keeps on disk between runs cannot be used."""

    exit_code = 14


class DamagedState(StateError):
    """A file of the device's state is not what the device wrote there."""


class ConnectionLost(FedpoetError):
    """The coordinator cannot be reached or went away; trying again later may help."""

    exit_code = 15


class TurnedAway(FedpoetError):
    """The coordinator refuses this device or what it asks for; `reason` is its one word for why."""

    exit_code = 16

    def __init__(self, message: str, *, reason: str = "") -> None:
        self.reason = reason
        super().__init__(message)
