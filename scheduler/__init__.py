"""POET as a library: graph + costs + budget -> a checked plan. Pure: no torch, flwr or grpc."""

from .baselines import keep_all, page_all
from .cache import PlanCache, cached_solve, default_cache_folder
from .check import check
from .device import DeviceProfile, PageLink, cost_table, device_names, load_device
from .errors import FedpoetError, Infeasible, InvalidPlan, NoPlanInTime
from .floor import Floor, floor
from .graph import Graph, Kind, Operator, Phase, Tensor
from .plan import Compute, Free, PageIn, PageOut, Plan, Solution, Status, Step
from .poet_instance import from_poet_instance, is_poet_instance
from .problem import Budget, Cost, CostTable, Problem
from .replay import Frame, Replay, replay
from .solve import solve

__all__ = [
    "Budget",
    "Compute",
    "Cost",
    "CostTable",
    "DeviceProfile",
    "FedpoetError",
    "Floor",
    "Frame",
    "Free",
    "Graph",
    "Infeasible",
    "InvalidPlan",
    "Kind",
    "NoPlanInTime",
    "Operator",
    "PageIn",
    "PageLink",
    "PageOut",
    "Phase",
    "Plan",
    "PlanCache",
    "Problem",
    "Replay",
    "Solution",
    "Status",
    "Step",
    "Tensor",
    "cached_solve",
    "check",
    "cost_table",
    "default_cache_folder",
    "device_names",
    "floor",
    "from_poet_instance",
    "is_poet_instance",
    "keep_all",
    "load_device",
    "page_all",
    "replay",
    "solve",
]
