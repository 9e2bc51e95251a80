"""DBLoss on random tensors: the losses, the gradient's norm and the time of a step.

Run it with `python examples/random_tensors.py`. It needs `pip install ".[cpu]"` and a few seconds.
"""

import argparse
from statistics import median
from time import perf_counter

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # before the imports, of seconds

from dbloss import DBLoss

import paddle

N, H, W = 8, 640, 640


def show(title: str, maps: paddle.Tensor, labels: list[paddle.Tensor], criterion: DBLoss) -> None:
    """Print the losses of one batch, the norm of their gradient and the median time of a step."""
    maps.stop_gradient = False
    times = []
    for _ in range(6):
        start = perf_counter()
        losses = criterion({"maps": maps}, labels)
        losses["loss"].backward()
        times.append(perf_counter() - start)
        norm = float(maps.grad.norm())
        maps.clear_gradient()
    print(title)
    for name, loss in losses.items():
        print(f"  {name:<20}{float(loss):10.4f}")
    print(f"  {'gradient norm':<20}{norm:10.3e}")
    # The first step also compiles and allocates.
    print(f"  {'time of a step':<20}{1000 * median(times[1:]):7.1f} ms\n")


def main() -> None:
    """Print two batches: one like a detector's, and one of plain noise."""
    paddle.seed(0)

    # What a detector gives and what a data loader makes: predictions in [0, 1], a tenth of the
    # pixels text, a twentieth ignored.
    image = paddle.rand([N, 3, H, W])
    text = (paddle.rand([N, H, W]) < 0.1).astype("float32")
    valid = (paddle.rand([N, H, W]) < 0.95).astype("float32")
    threshold = 0.3 + 0.4 * paddle.rand([N, H, W])
    labels = [image, threshold, valid, text, valid]
    show(f"Random maps, {[N, 3, H, W]}", paddle.rand([N, 3, H, W]), labels, DBLoss())

    # A first try-out often looks like this. DBLoss says what is wrong with its first batch, unless
    # told not to.
    noise = paddle.randn([N, H, W])
    show(
        "Normal noise, one tensor as all five labels. No head and no loader gives such a batch, and"
        "\nits losses mean nothing: masks of noise add up to about 0, and L1 divides by that sum.",
        paddle.randn([N, 3, H, W]),
        [noise] * 5,
        DBLoss(check_batches=0),
    )


if __name__ == "__main__":
    main()
