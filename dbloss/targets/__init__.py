"""Text polygons to the four label maps that the loss is trained with."""

from dbloss.base import checks

with checks.needing("dbloss.targets", "cv2", "pyclipper", "numba"):
    from dbloss.targets.make import Targets, WeightedTargets, make_targets, stack_targets
    from dbloss.targets.shrink_map import Shrunk, shrink

__all__ = ["Shrunk", "Targets", "WeightedTargets", "make_targets", "shrink", "stack_targets"]
