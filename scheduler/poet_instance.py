"""Problems in the JSON form in which the public POET repository's graphs are compared.

One output tensor per operator, whose `inputs` are operators. Only operator outputs count as RAM, and
nothing has to remain when the step ends. `page_link` gives latency and throughput of each direction.
"""

from __future__ import annotations

import math
from typing import Any

from .errors import BadFile
from .graph import Graph, Kind, Operator, Phase, Tensor
from .problem import Budget, Cost, CostTable, Problem


def is_poet_instance(document: object) -> bool:
    """Whether a parsed JSON document has this form."""
    return (
        isinstance(document, dict) and {"num_forward", "page_link", "operators"} <= document.keys()
    )


def from_poet_instance(document: dict[str, Any], budget: Budget | None = None) -> Problem:
    """The problem, with the instance's own keep-all peak as budget unless one is given.

    Raises BadFile when a field is missing or of the wrong type, BadGraph when the graph is wrong.
    """
    try:
        rows, link = document["operators"], document["page_link"]
        tensors = tuple(
            Tensor(
                id=row["index"],
                name=f"{row['name']}.{row['index']}",
                size_bytes=int(row["output_bytes"]),
                kind=Kind.ACTIVATION if row["phase"] == "forward" else Kind.GRADIENT,
            )
            for row in rows
        )
        operators = tuple(
            Operator(
                id=row["index"],
                name=f"{row['name']}.{row['index']}",
                # The public graphs list some edges twice.
                inputs=tuple(dict.fromkeys(row["inputs"])),
                outputs=(row["index"],),
                phase=Phase(row["phase"]),
            )
            for row in rows
        )
        graph = Graph(operators=operators, tensors=tensors, name=str(document.get("name", "poet")))
        costs = CostTable(
            operators=tuple(
                Cost(time_s=float(r["time_s"]), energy_j=float(r["energy_j"])) for r in rows
            ),
            page_in=tuple(_transfer(r, link, "page_in") for r in rows),
            page_out=tuple(_transfer(r, link, "page_out") for r in rows),
        )
        ram_bytes = int(document["keep_all_peak_bytes"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(f"not a POET instance: {type(error).__name__} {error}") from error
    return Problem(graph=graph, costs=costs, budget=budget or Budget(ram_bytes=ram_bytes))


def _transfer(row: dict[str, Any], link: dict[str, Any], direction: str) -> Cost:
    time_s = link[f"{direction}_latency_s"] + row["output_bytes"] / link[f"{direction}_bytes_per_s"]
    if not math.isfinite(time_s):
        raise ValueError(f"{direction} time is {time_s}")
    return Cost(time_s=float(time_s), energy_j=float(row[f"{direction}_j"]))
