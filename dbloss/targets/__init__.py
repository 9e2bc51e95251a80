"""Draws the label maps of an image from the polygons of its texts."""

from dbloss.base import checks

with checks.needing("dbloss.targets", "cv2", "pyclipper", "numba"):
    from dbloss.targets.make import Targets, WeightedTargets, make_targets, stack_targets
    from dbloss.targets.shrink_map import Shrunk, shrink

__all__ = ["Shrunk", "Targets", "WeightedTargets", "make_targets", "shrink", "stack_targets"]
