"""Pictures of a batch and of the losses of a run; `python -m dbloss.plot` draws targets.

They are matplotlib figures made without pyplot: nothing is kept open, and no display is needed.
"""

try:
    import matplotlib as _matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "matplotlib":
        raise
    raise ImportError(
        "dbloss.plot needs matplotlib, which is not installed."
        ' Install it: pip install "dbloss[plot]"'
    ) from error

from dbloss.plot.batch import plot_batch
from dbloss.plot.history import plot_history

__all__ = ["plot_batch", "plot_history"]
