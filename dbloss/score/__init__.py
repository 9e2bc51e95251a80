"""Boxes and texts to precision, recall and hmean, and the limits at which they are best."""

from dbloss.score.limits import Limit, Limits, search_limits
from dbloss.score.matching import Match, match
from dbloss.score.matching import outlines as outlines
from dbloss.score.metrics import Hmean, MapHmean

__all__ = ["Hmean", "Limit", "Limits", "MapHmean", "Match", "match", "search_limits"]
