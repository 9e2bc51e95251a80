"""Precision, recall and hmean of boxes, and the thresholds that make them best."""

from dbloss.score.bootstrap import Gain, compare
from dbloss.score.calibration import (
    Calibration,
    Calibrations,
    calibrate,
    fold_calibration,
    search_calibration,
)
from dbloss.score.limits import Limit, Limits, search_limits
from dbloss.score.matching import Match, match
from dbloss.score.matching import outlines as outlines
from dbloss.score.metrics import Hmean, MapHmean

__all__ = [
    "Calibration",
    "Calibrations",
    "Gain",
    "Hmean",
    "Limit",
    "Limits",
    "MapHmean",
    "Match",
    "calibrate",
    "compare",
    "fold_calibration",
    "match",
    "search_calibration",
    "search_limits",
]
