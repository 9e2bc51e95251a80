"""What `dbloss.batch` holds: losses that were pickled by version 0.1.0 look for it here."""

from dbloss._tensors import to_array
from dbloss.batch.first import FirstBatches
from dbloss.batch.validate import BatchSummary, validate_batch

__all__ = ["BatchSummary", "FirstBatches", "to_array", "validate_batch"]
