"""The losses of a run, step by step."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from numbers import Real
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from dbloss.base import checks
from dbloss.plot import panels

_COLOURS = ("black", panels.BLUE, panels.ORANGE, panels.SKY, panels.VERMILLION, panels.PURPLE)
_STYLES = [(line, colour) for line in ("-", "--", ":") for colour in _COLOURS]


def plot_history(records: Sequence[Mapping[str, Any]]) -> panels.Picture:
    """Return a figure of the loss and its parts over the steps of a run.

    Each step is thin. The mean of the last 20 steps is thick; of a run of more than 1000 steps it
    is the mean of 2 % of them. The scale is logarithmic where every value is above 0. Where a value
    is NaN or infinite its line has a gap, with a cross below it.

    Args:
        records: for each step what the loss returned: a dict of numbers, or of tensors that hold
            one. Every key is drawn; a step may lack it.

    Returns:
        A `matplotlib.figure.Figure`. `figure.savefig("losses.png")` writes it; a notebook shows it.

    Raises:
        TypeError: `records` is no list of dicts of numbers.
        ValueError: `records` is empty.

    Example:
        >>> from dbloss.plot import plot_history
        >>> records = [{"loss": 3 / step, "loss_binary_maps": 1 / step} for step in range(1, 50)]
        >>> figure = plot_history(records)
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['loss', 'binary maps']

    Source:
        Colours: Okabe and Ito, "Color Universal Design", 2008.
    """
    steps = _read_records(records)
    names = dict.fromkeys(name for step in steps for name in step)
    numbers = np.arange(1, len(steps) + 1)
    window = min(len(steps), max(20, len(steps) // 50))

    figure = panels.Picture(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    positive, broken = True, False
    for i, (name, (line, colour)) in enumerate(zip(names, cycle(_STYLES))):
        there = np.array([name in step for step in steps])
        values = np.array([step.get(name, np.nan) for step in steps])
        finite = np.isfinite(values)
        positive = positive and bool((values[finite] > 0).all())
        values[~finite] = np.nan
        mean = np.convolve(values, np.full(window, 1 / window), mode="valid")
        ax.plot(numbers, values, color=colour, alpha=0.35, linewidth=0.8)
        ax.plot(
            numbers[window - 1 :],
            mean,
            line,
            color=colour,
            linewidth=2,
            marker="o" if len(mean) == 1 else "",
            label=panels.shorten(name),
        )
        crossed = numbers[there & ~finite]
        heights = np.full(len(crossed), 0.02 + 0.03 * i)  # of the axes, a row for each curve
        ax.plot(crossed, heights, "x", color=colour, transform=ax.get_xaxis_transform())
        broken = broken or len(crossed) > 0
    if broken:
        ax.plot([], [], "x", color="black", label="NaN or Inf")
    if positive:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
    ax.set_xlabel(f"step (thick: mean of {window})", fontsize=12)
    ax.set_ylabel("loss", fontsize=12)
    ax.tick_params(labelsize=11)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if len(steps) > 1:
        ax.set_xlim(1, len(steps))
    ax.grid(alpha=0.3)
    columns = 4 if len(names) + broken <= 4 else 3
    figure.legend(ncols=columns, loc="outside upper center", frameon=False, fontsize=12)
    return figure


def _read_records(values: Any) -> list[dict[str, float]]:
    """Return the losses of each step as dicts of floats."""
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
        raise TypeError(
            "records: expected a list with one dict of losses per step,"
            f" got {checks.describe(values)}."
            " Append what the loss returns to a list, and pass that."
        )
    if not values:
        raise ValueError(
            "records: expected at least one step, got an empty list. Append the losses of each"
            " step: records.append({name: float(loss) for name, loss in losses.items()})."
        )
    return [_read_record(f"records[{step}]", record) for step, record in enumerate(values)]


def _read_record(name: str, record: Any) -> dict[str, float]:
    if not isinstance(record, Mapping):
        raise TypeError(
            f"{name}: expected a dict of losses, got {checks.describe(record)}."
            " Append the dict that the loss returns."
        )
    for key, value in record.items():
        if not isinstance(value, Real) and getattr(value, "size", None) != 1:
            raise TypeError(
                f"{name}[{key!r}]: expected a number or a tensor that holds one,"
                f" got {checks.describe(value)}. Leave out what is no loss."
            )
    return {
        str(key): float(value if isinstance(value, Real) else value.item())
        for key, value in record.items()
    }
