"""Draw the newest run of the losses: the time of a step by provider, and over the pixels."""

import argparse
import csv
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE, PICTURE = ROOT / "benchmarks" / "results.csv", ROOT / "docs" / "speed.png"
COLOURS = {
    "dbloss fused": "#0072B2",
    "dbloss operators": "#56B4E9",
    "plain formulas": "#D55E00",
    "PyTorch compiled": "#999999",
    "PyTorch eager": "#666666",
    "limit": "#000000",
}


def newest(path: Path) -> list[dict[str, str]]:
    """Return the steps of the last run that has any: those of one date, commit and device."""
    with path.open(newline="") as file:
        steps = [row for row in csv.DictReader(file) if row["what"] == "whole"]
    # Those of the prices are of other pages, which their name says.
    rows = [row for row in steps if "," not in row.get("main_loss_type", "")]
    run = [rows[-1][key] for key in ("date", "commit", "device")]
    return [row for row in rows if [row[key] for key in ("date", "commit", "device")] == run]


def draw(table: Path = TABLE, picture: Path = PICTURE) -> None:
    """Draw the newest run of a table."""
    from matplotlib.figure import Figure  # here, so that `--help` needs none

    rows = newest(table)
    at_reference = [row for row in rows if row["images"] == "8" and row["height"] == "640"]
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])

    bars = [
        (row["provider"], row["main_loss_type"], float(row["median"]))
        for kind in ("DiceLoss", "BCELoss")
        for row in at_reference
        if row["main_loss_type"] == kind and row["provider"] != "limit"
    ]
    longest = max(value for *_, value in bars)
    for place, (provider, _, value) in enumerate(reversed(bars)):
        left.barh(place, value, color=COLOURS[provider])
        left.text(
            value + 0.01 * longest,
            place,
            f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms",
            va="center",
            fontsize=9,
        )
    # Those of PyTorch are the Dice form alone, without the balance of text and background.
    names = [
        f"{provider}, {'bare Dice form' if provider.startswith('PyTorch') else kind}"
        for provider, kind, _ in reversed(bars)
    ]
    left.set_yticks(range(len(bars)), names)
    left.set_xlim(right=1.2 * longest)
    left.set_xlabel("milliseconds")
    left.set_title("8 images of 640 x 640", fontsize=11)

    for provider in ("plain formulas", "dbloss operators", "dbloss fused"):
        points = sorted(
            (
                int(row["images"]) * int(row["height"]) * int(row["width"]),
                *(float(row[key]) for key in ("median", "q20", "q80")),
            )
            for row in rows
            if row["provider"] == provider and row["main_loss_type"] == "DiceLoss"
        )
        pixels, median, low, high = zip(*points)
        right.plot(pixels, median, "o-", color=COLOURS[provider], label=provider)
        right.fill_between(pixels, low, high, color=COLOURS[provider], alpha=0.25, linewidth=0)
    right.set(xscale="log", yscale="log", xlabel="pixels of a batch", ylabel="milliseconds")
    right.set_title("DiceLoss, every size", fontsize=11)
    right.legend(fontsize=9)
    right.grid(alpha=0.3)
    first = rows[0]
    figure.suptitle(
        "Forward and backward pass of DBLoss, "
        f"{first['cores']} cores of {first['device']}, Paddle {first['paddle']}",
        fontsize=12,
    )
    figure.savefig(picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, nargs="?", default=TABLE, help="the CSV of run.py")
    parser.add_argument("picture", type=Path, nargs="?", default=PICTURE, help="what is drawn")
    arguments = parser.parse_args()
    try:
        draw(arguments.table, arguments.picture)
    except OSError as error:
        parser.error(str(error))
