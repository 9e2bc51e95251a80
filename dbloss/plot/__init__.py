"""Pictures of a batch, of the losses of a run and of limits; `python -m dbloss.plot` draws targets.

They are matplotlib figures made without pyplot: nothing is kept open, and no display is needed.
"""

from typing import TYPE_CHECKING

from dbloss.base import checks
from dbloss.base import help as _help

if TYPE_CHECKING or not _help.ALONE:
    with checks.needing("dbloss.plot", "matplotlib"):
        import matplotlib as _matplotlib  # noqa: F401

    from dbloss.plot.batch import plot_batch
    from dbloss.plot.history import plot_history
    from dbloss.plot.limits import plot_limits
    from dbloss.plot.problems import plot_pages, plot_problems, write_report
    from dbloss.plot.targets import plot_targets

__all__ = [
    "plot_batch",
    "plot_history",
    "plot_limits",
    "plot_pages",
    "plot_problems",
    "plot_targets",
    "write_report",
]
