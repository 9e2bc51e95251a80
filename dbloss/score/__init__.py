"""Boxes and texts to precision, recall and hmean, and the limits at which they are best."""

from dbloss.score.bootstrap import Gain, compare
from dbloss.score.limits import Limit, Limits, search_limits
from dbloss.score.matching import Match, match
from dbloss.score.matching import outlines as outlines
from dbloss.score.metrics import Hmean, MapHmean

__all__ = [
    "Gain",
    "Hmean",
    "Limit",
    "Limits",
    "MapHmean",
    "Match",
    "compare",
    "match",
    "search_limits",
]
