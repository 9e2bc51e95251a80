"""Which negatives count: how many, and the weight of a tie. Nothing here has a gradient."""

from typing import Any, NamedTuple


class Balance(NamedTuple):
    """How a loss is balanced between positives and hard negatives (OHEM).

    `per_pixel` ranks the negatives by the hardness of each and leaves the others out of the loss.
    Without it the one loss of all pixels is scaled by `factor`, as PaddleOCR does, and that alone
    reads `eps`.
    """

    ratio: float
    fallback: float
    per_pixel: bool
    eps: float = 0.0

    def counts(self, positive: Any, negative: Any, xp: Any) -> tuple[Any, Any]:
        """Return `n_pos = int(sum(g*m))` and `n_neg = int(min(sum((1-g)*m), n_pos * ratio))`.

        Both are truncated and never below 0. Where `n_pos` is 0, `fallback` takes the place of
        `n_pos * ratio`. The sums are 0-D arrays of `xp`, which is paddle or numpy.
        """
        n_pos = xp.floor(xp.clip(positive, 0, None))
        wanted = xp.where(n_pos > 0, n_pos * self.ratio, n_pos + self.fallback)
        n_neg = xp.floor(xp.clip(xp.minimum(negative, wanted), 0, None))
        return n_pos, n_neg

    def factor(self, positive: Any, chosen: Any, n_pos: Any, n_neg: Any) -> Any:
        """Return `(sum(g*m) + sum of the chosen (1-g)*m) / (n_pos + n_neg + eps)`.

        A loss d of the batch makes `(1-g)*m*d` the hardness of a pixel. So the `n_neg` largest
        `(1-g)*m` are chosen, and of a negative loss the smallest.
        """
        return (positive + chosen) / (n_pos + n_neg + self.eps)


def tie_weight(n_neg: Any, n_above: Any, n_equal: Any, xp: Any) -> Any:
    """Return the weight of a value equal to the threshold: an equal share of the places left.

    It is at most 1: where there are more places than values, each value counts fully.
    """
    return xp.clip((n_neg - n_above) / xp.clip(n_equal, 1, None), 0, 1)
