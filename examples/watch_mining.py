r"""Watch what a mined loss does to the probability map in the first steps of a training.

    pip install ".[cpu,examples]"
    python examples/watch_mining.py                          # rendered pages
    python examples/watch_mining.py --labels train.txt --test-labels test.txt \
        --losses BCELoss BCELoss:bias=-4 OHEMDiceLoss OHEMDiceLoss:bias=-4

The losses are those of compare_losses.py, and so are the trainings, which are ended after 300 of
1,000 steps. Every few steps, on the batch that is trained on, before the step:

    text          P on text, in the mean
    low, median,  P on the background: 5, 50 and 95 % of its pixels are below
    high
    chosen        P on the hard negatives, in the mean
    above         share of the text's pixels where P is above `high`: 0.05 is what chance gives
    pull, push    the gradient of the logits, added up over the text and over the background

The output folder then holds all of it, mining.csv, and a picture, mining.png.
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from typing import Any

import options

if __name__ == "__main__":
    options.watch_mining(__doc__).parse_args()  # before the imports below, which take seconds

from compare_losses import STYLE, Scheduled, read_loss
from dbloss import hard_negative_weights
from train_text_detector import BATCH, RATE, Data, DBNet, Pages, read_data

import numpy as np
import paddle
from matplotlib.figure import Figure

EARLY, EVERY = (5, 10, 15), 25  # steps that are looked at
COLUMNS = ["loss", "step", "text", "low", "median", "high", "chosen", "above", "pull", "push"]

Row = dict[str, Any]


class Watched(Scheduled):
    """A training that looks at its probability map."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.rows: list[Row] = []

    def step(self, batch: list[paddle.Tensor]) -> None:
        step = len(self.history)
        if step % EVERY == 0 or step in EARLY:
            self.rows.append({"step": step, **self.look(batch)})
        super().step(batch)

    def look(self, batch: list[paddle.Tensor]) -> Row:
        """Return what is to be seen on a batch; nothing of the training is changed."""
        loss_fn = self.loss_at(len(self.history))
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        maps = self.model(batch[0])["maps"].detach()
        self.model.set_state_dict(state)  # the statistics of the batch norms
        maps.stop_gradient = False
        loss_fn({"maps": maps}, batch)["loss_shrink_maps"].backward()
        p, slope = maps[:, 0].detach(), maps.grad[:, 0]
        ratio = getattr(loss_fn.bce_loss, "negative_ratio", 3)
        chosen = hard_negative_weights(p, *batch[3:5], negative_ratio=ratio).numpy()
        p, slope, shrunk, mask = (x.numpy() for x in (p, slope * p * (1 - p), *batch[3:5]))
        text, background = shrunk * mask > 0, (1 - shrunk) * mask > 0
        low, median, high = np.quantile(p[background], [0.05, 0.5, 0.95])
        return {
            "text": p[text].mean(),
            "low": low,
            "median": median,
            "high": high,
            "chosen": (p * chosen).sum() / chosen.sum(),
            "above": (p[text] > high).mean(),
            "pull": slope[text].sum(),
            "push": slope[background].sum(),
        }


def watch(loss: str, data: Data, args: argparse.Namespace) -> list[Row]:
    """Train a detector for a while, and return what was to be seen."""
    setting = read_loss(loss)
    with paddle.utils.unique_name.guard():
        paddle.seed(args.seed)
        pages = Pages(args.seed, args.of * BATCH, data.draw, setting.text_balance)
        training = Watched(
            DBNet(bias=setting.bias), setting.loss_at, pages, rate=setting.rate or RATE
        )
        if not training.run(args.steps, desc=loss):
            sys.exit(130)
    return [{"loss": loss, **row} for row in training.rows]


def draw(rows: list[Row]) -> Figure:
    """Draw P on the text, and on the background, over the steps; a panel for each loss."""
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    columns = min(len(losses), 2)
    height = 2.6 * -(-len(losses) // columns)
    figure = Figure(figsize=(4.5 * columns, height + 0.4), layout="constrained")
    panels = figure.subplots(
        -(-len(losses) // columns), columns, sharex=True, sharey=True, squeeze=False
    )
    for axes, loss in zip(panels.flat, losses):
        seen = [row for row in rows if row["loss"] == loss]
        values = {name: np.float64([row[name] for row in seen]) for name in COLUMNS[1:]}
        steps, band = values["step"], "background: 5 to 95 % of its pixels"
        axes.fill_between(
            steps, values["low"], values["high"], color="#0072b2", alpha=0.25, lw=0, label=band
        )
        axes.plot(steps, values["median"], color="#0072b2", label="background: median")
        axes.plot(steps, values["text"], color="#d55e00", label="text: mean")
        axes.set(title=loss, ylim=(0, 1), xlabel="step")
        axes.margins(x=0)
        axes.tick_params(labelbottom=True)
        axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel("P")
    for axes in panels.flat[len(losses) :]:
        axes.set_axis_off()
    named = panels[0, 0].get_legend_handles_labels()
    figure.legend(*named, loc="outside lower center", ncols=columns)
    return figure


def main() -> None:
    parser = options.watch_mining(__doc__)
    args = parser.parse_args()
    if not 1 <= args.steps <= args.of or args.seed < 0:
        parser.error("--steps must be at least 1 and at most --of, --seed at least 0")
    warnings.filterwarnings("ignore", "When training, we now always track")  # Paddle's BatchNorm
    try:
        for loss in args.losses:
            read_loss(loss)
        data = read_data(args, args.seed, count=1, **STYLE)
        args.out.mkdir(parents=True, exist_ok=True)
    except (TypeError, ValueError, OSError) as error:
        parser.error(str(error))

    rows = [row for loss in args.losses for row in watch(loss, data, args)]
    with (args.out / "mining.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.3f}" if k in COLUMNS[2:] else v for k, v in r.items()} for r in rows
        )
    draw(rows).savefig(args.out / "mining.png", dpi=150)
    print(f"what was seen is in {args.out}")


if __name__ == "__main__":
    main()
