"""The check that a `DBLoss` makes of its first batches."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple
from weakref import ref

import paddle

from dbloss.base import checks
from dbloss.batch import arguments, rules


class Expected(NamedTuple):
    """What a loss expects of a batch."""

    auxiliary: Sequence[str]  # names of the auxiliary maps that it reads
    bounded: Sequence[bool]  # for P, T and B: whether its values have to be in [0, 1]
    learns_without_text: bool  # whether a batch without text is useful, here or to other processes
    mined: str  # the name of the loss of P if mining chooses all of its negatives, else ""
    logarithm: str  # the name of the loss of P if it takes a logarithm of P, else ""
    first_rank: int  # the rank of the process that logs


class FirstBatches:
    """Checks the first batches of a loss, and logs what is wrong with them.

    It never raises. It logs each kind of fault once, and no labels that another loss which still
    exists has just checked.
    """

    # Weak references to the labels that were checked last, and to the object that checked them.
    _last: ClassVar[tuple[Callable[[], Any], Callable[[], Any]]] = (lambda: None, lambda: None)

    def __init__(self, count: int) -> None:
        self._left = count
        self._said: set[str] = set()

    def look(self, predicts: Any, labels: Any, expected: Callable[[], Expected]) -> None:
        """Log what `validate_batch` would say, if this is one of the first batches."""
        if not self._left or not paddle.in_dynamic_mode():
            return
        self._left -= 1
        try:
            what = expected()
            if paddle.distributed.get_rank() == what.first_rank:
                self._report(predicts, labels, what)
        except Exception:
            checks.LOGGER.debug("The check of a first batch failed.", exc_info=True)

    def _report(self, predicts: Any, labels: Any, expected: Expected) -> None:
        try:
            arguments.maps(predicts)  # raises for None, which `read` would take
            batch = rules.read(predicts, labels, expected.auxiliary)
        except (TypeError, ValueError):  # the loss is about to raise the same
            self._left += 1
            return
        bounded = [name for name, is_so in zip(rules.CHANNELS, expected.bounded) if is_so]
        found = [*rules.of_gradients(predicts), *rules.refusals(batch.predicted, bounded)]
        if self._reports(labels[3]):
            with_empty = not expected.learns_without_text
            found += rules.refused_labels(batch) or rules.of_labels(
                batch, rules.sums_of(batch), with_empty
            )
        if not found and expected.mined:
            found += rules.of_start(batch, expected.mined)
        if not found and expected.logarithm:
            found += rules.of_faint_text(batch, expected.logarithm)
        new = [each.text for each in found if each.kind not in self._said]
        self._said.update(each.kind for each in found)
        if new:
            checks.LOGGER.warning(
                "DBLoss checked a first batch and found (check_batches=0 turns this off):%s",
                "".join(f"\n- {text}" for text in new),
            )

    def _reports(self, labels: Any) -> bool:
        """Tell whether to check these labels, which no other loss has just done."""
        of, by = (get() for get in FirstBatches._last)
        if of is labels and by not in (None, self):
            return False
        FirstBatches._last = ref(labels), ref(self)
        return True
