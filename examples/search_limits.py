"""Train the detector of train_text_detector.py, and choose its limits (thresholds).

    pip install ".[cpu,examples]"
    python examples/search_limits.py                         # some minutes on 2 CPU cores
    python examples/search_limits.py --loss DiceLoss --seed 1 --out runs/dice

The pages are the hard ones of compare_losses.py: most have one word or none among much clutter. The
probability map starts as background, as a loss that is only mined wants. On some of the pages held
out every pair of limits is scored; the rest, which had no part in the choice, give the score at the
usual limits and at those that were chosen. The table of the hmean is printed, and the output folder
then holds limits.png. What to know of the choice goes to stderr: whether the best pair is at the
edge of the table, and whether what it gains is more than noise.
"""

from __future__ import annotations

import warnings

import options

if __name__ == "__main__":
    options.search_limits(__doc__).parse_args()  # before the imports below, which take seconds

from compare_losses import STYLE
from dbloss import DBLoss
from dbloss.plot import plot_limits
from dbloss.score import Limit, Limits
from train_text_detector import (
    BATCH,
    PADDLEOCR,
    DBNet,
    Pages,
    Training,
    best_pair,
    rendered,
    score,
    search,
)

import paddle


def table(limits: Limits) -> str:
    """Return the hmean of every pair of limits as a table in Markdown."""
    rows = [[f"{x:g}" for x in limits.box_thresh], ["---"] * len(limits.box_thresh)]
    rows += [[f"{hmean:.3f}" for hmean in row] for row in limits.hmean]
    heads = ["thresh, box_thresh", "---", *(f"{x:g}" for x in limits.thresh)]
    return "\n".join(f"| {head} | {' | '.join(row)} |" for head, row in zip(heads, rows))


def main() -> None:
    parser = options.search_limits(__doc__)
    args = parser.parse_args()
    if min(args.steps, args.pages) < 1 or args.seed < 0:
        parser.error("--steps and --pages must be at least 1 and --seed at least 0")
    try:
        loss_fn = DBLoss(main_loss_type=args.loss)
        args.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    warnings.filterwarnings("ignore", "When training, we now always track")  # Paddle's BatchNorm

    paddle.seed(args.seed)
    data = rendered(args.seed, args.pages, **STYLE)
    training = Training(DBNet(bias=-4), loss_fn, Pages(args.seed, args.steps * BATCH, data.draw))
    training.run()
    limits = search(training.model, data.held_out, desc="limits")
    plot_limits(limits).savefig(args.out / "limits.png")
    print(table(limits))

    print(f"on {args.pages} other pages:")
    best = best_pair(limits)
    usual, chosen = score(training.model, data.test, PADDLEOCR, best, desc="score")
    print("usual limits:", Limit(*PADDLEOCR, **usual))
    print("chosen limits:", Limit(*best, **chosen) if limits.best else "none")


if __name__ == "__main__":
    main()
