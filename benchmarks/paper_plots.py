"""Table and plots of `benchmarks/paper.py`, drawn again from its CSV without planning anything.

python -m benchmarks.paper_plots docs
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from rich.console import Console
from rich.table import Table

from scheduler import load_device

NAMES = {"vgg16": "VGG16", "resnet18": "ResNet-18", "bert12": "BERT-base"}
TITLES = {
    "mkr1000": "MKR1000",
    "nrf52840": "nRF52840",
    "raspberry-pi-4b": "Raspberry Pi 4B",
    "jetson-tx2": "Jetson TX2",
}
# Label, colour (Okabe and Ito's, which the colour-blind can tell apart), marker.
LOOKS = {
    "poet": ("POET", "#d55e00", "o"),
    "paging": ("paging only (optimal)", "#0072b2", "v"),
    "checkmate": ("recomputing only (Checkmate)", "#009e73", "^"),
    "pofo": ("POFO", "#7b3fa0", "s"),
    "capuchin": ("Capuchin", "#56b4e9", "D"),
    "dtr": ("DTR", "#e69f00", "P"),
    "chen": ("√n segments (Chen)", "#cc79a7", "X"),
    "page-all": ("page-all", "#8a8a8a", "_"),
    "keep-all": ("keep-all", "#111111", "*"),
}
STYLE: dict[str, Any] = {
    "svg.hashsalt": "paper",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method under one budget; energy and time beyond computing everything once are shares of it."""

    network: str
    device: str
    ram_bytes: int
    floor_bytes: int
    keep_all_bytes: int
    method: str
    energy_j: float | None
    extra_energy: float | None
    time_s: float | None
    extra_time: float | None
    gap: float | None
    planning_s: float


def write_rows(rows: Iterable[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = asdict(row)
            writer.writerow(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
            )


def read_rows(path: Path) -> list[Row]:
    whole = {"ram_bytes", "floor_bytes", "keep_all_bytes"}
    words = {"network", "device", "method"}
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            values: dict[str, Any] = {
                k: v if k in words else int(v) if k in whole else float(v) if v else None
                for k, v in line.items()
            }
            rows.append(Row(**values))
    return rows


def publish(rows: Sequence[Row], folder: Path) -> None:
    """Print the table, draw the plots, and renew the tables in the text, if there is one."""
    show(rows, Console())
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for network in dict.fromkeys(r.network for r in rows):
        draw([r for r in rows if r.network == network], images / f"paper-{network}.svg")
    text = folder / "paper.md"
    if text.exists():
        before, rest = text.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        text.write_text(f"{before}{BEGIN}\n{tables(rows)}\n{END}{after}", encoding="utf-8")


# ---- terminal


def show(rows: Sequence[Row], console: Console) -> None:
    """Energy and time beyond computing once in percent, one line per budget."""
    for network, device in dict.fromkeys((r.network, r.device) for r in rows):
        ours = [r for r in rows if (r.network, r.device) == (network, device)]
        for field, what in (("extra_energy", "energy"), ("extra_time", "time")):
            title = f"{NAMES[network]} on {TITLES[device]}: extra {what}, %"
            table = Table(title=title, padding=0, title_justify="left")
            for head in ("RAM", *LOOKS):
                table.add_column(head, justify="right")
            for ram_bytes in sorted({r.ram_bytes for r in ours}):
                found = {r.method: getattr(r, field) for r in ours if r.ram_bytes == ram_bytes}
                table.add_row(_megabytes(ram_bytes), *(_percent(found[m]) for m in LOOKS))
            console.print(table)


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    percent = max(0.0, 100 * share)
    if percent < 0.005:
        return "0"
    return (
        f"{percent:.2g}" if percent < 1 else f"{percent:.1f}" if percent < 100 else f"{percent:.0f}"
    )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


# ---- text


def tables(rows: Sequence[Row]) -> str:
    """Two Markdown tables: extra energy at a middle budget, and the least RAM that was enough."""
    pairs = list(dict.fromkeys((r.network, r.device) for r in rows))
    head = ["network", "device", *(LOOKS[m][0] for m in LOOKS)]
    middle, least = [], []
    for network, device in pairs:
        ours = [r for r in rows if (r.network, r.device) == (network, device)]
        budgets = sorted({r.ram_bytes for r in ours})
        half = {r.method: r for r in ours if r.ram_bytes == budgets[len(budgets) // 2]}
        first = f"| {NAMES[network]} | {TITLES[device]} |"
        middle.append(f"{first} {' | '.join(_percent(half[m].extra_energy) for m in LOOKS)} |")
        reached = {
            m: min((r.ram_bytes for r in ours if r.method == m and r.energy_j), default=None)
            for m in LOOKS
        }
        shown = ("–" if (b := reached[m]) is None else _megabytes(b) for m in LOOKS)
        least.append(f"{first} {' | '.join(shown)} |")
    line = f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    one = half["poet"]
    way = (one.ram_bytes - one.floor_bytes) / (one.keep_all_bytes - one.floor_bytes)
    return (
        "Extra energy in percent of computing everything once, at the budget that is "
        f"{way:.0%} of the way from the floor to what keep-all needs; – where there is no plan.\n\n{line}"
        + "\n".join(middle)
        + "\n\nThe smallest budget of the sweep with a plan.\n\n"
        f"{line}" + "\n".join(least)
    )


# ---- plots


def draw(rows: Sequence[Row], path: Path) -> None:
    """Energy above, time below, one column per device."""
    devices = list(dict.fromkeys(r.device for r in rows))
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(3.0 * len(devices) + 0.6, 6.0), layout="constrained")
        axes = made.subplots(2, len(devices), squeeze=False, sharex=True, sharey="row")
        for line, field in enumerate(("extra_energy", "extra_time")):
            for column, device in enumerate(devices):
                _panel(axes[line][column], [r for r in rows if r.device == device], field)
            top = max(100 * (getattr(r, field) or 0.0) for r in rows)
            axes[line][0].set_ylim(0, 2 * top)
            axes[line][0].set_ylabel(f"{field.replace('_', ' ')}, %")
        for column, device in enumerate(devices):
            trainable = load_device(device).trainable_bytes
            axes[0][column].set_title(f"{TITLES[device]}\n", pad=4)
            own = f"has {_capacity(trainable)} for training"
            axes[0][column].text(0, 1.03, own, transform=axes[0][column].transAxes, color="#555555")
            axes[1][column].set_xlabel("RAM budget, MB")
            if rows[0].floor_bytes <= trainable <= rows[0].keep_all_bytes:
                for ax in axes[:, column]:
                    ax.axvline(trainable / 1e6, color="#555555", linestyle="-.")
        _name_floor(axes[0][0], rows[0])
        handles, labels = axes[0][0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside upper center", ncols=5, handlelength=2.2)
        made.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _capacity(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e3:.0f} kB"


def _name_floor(ax: Axes, row: Row) -> None:
    ax.annotate(
        "floor",
        (row.floor_bytes / 1e6, 0.03),
        xycoords=("data", "axes fraction"),
        xytext=(3, 0),
        textcoords="offset points",
        color="#777777",
    )


def _panel(ax: Axes, rows: Sequence[Row], field: str) -> None:
    for place, (method, (label, colour, marker)) in enumerate(LOOKS.items()):
        points = sorted(
            (r.ram_bytes / 1e6, max(0.0, 100 * value))
            for r in rows
            if r.method == method and (value := getattr(r, field)) is not None
        )
        ours = method == "poet"
        ax.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=colour,
            marker=marker,
            label=label,
            # POET is broad and lies below, so that what is as good is seen on it.
            linewidth=4.5 if ours else 1.3,
            markersize=11 if ours else 10 if method == "keep-all" else 5,
            linestyle="--" if method == "page-all" else "-",
            zorder=3 if ours else 20 - place,
            clip_on=False,
        )
    ax.axvline(rows[0].floor_bytes / 1e6, color="#777777", linestyle=":", linewidth=1)
    ax.set_yscale("symlog", linthresh=0.1, linscale=0.4)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_locator(MaxNLocator(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where paper.csv is")
    folder = parser.parse_args().folder
    publish(read_rows(folder / "paper.csv"), folder)


if __name__ == "__main__":
    main()
