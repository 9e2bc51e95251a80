"""Checks the arguments of the losses, and what can be wrong with a batch."""

from dbloss.batch.first import FirstBatches
from dbloss.batch.validate import BatchSummary, validate_batch

__all__ = ["BatchSummary", "FirstBatches", "validate_batch"]
