"""What the losses take, and what can be wrong with a batch."""

from dbloss.batch.validate import BatchSummary, validate_batch

__all__ = ["BatchSummary", "validate_batch"]
