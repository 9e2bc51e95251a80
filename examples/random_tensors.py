"""DBLoss on random tensors: the losses, the gradient's norm and the time of a step.

Run it with `python examples/random_tensors.py`. It needs `pip install ".[cpu]"` and a few seconds.
"""

from statistics import median
from time import perf_counter

import paddle

from dbloss import DBLoss

N, H, W = 8, 640, 640


def show(title: str, maps: paddle.Tensor, labels: list[paddle.Tensor]) -> None:
    """Print the losses of one batch, the norm of their gradient and the median time of a step."""
    criterion = DBLoss()
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
    show(f"Random maps, {[N, 3, H, W]}", paddle.rand([N, 3, H, W]), labels)

    # A first try-out often looks like this. The numbers mean nothing, and they are computed.
    noise = paddle.randn([N, H, W])
    show("Normal noise, one tensor as all five labels", paddle.randn([N, 3, H, W]), [noise] * 5)


if __name__ == "__main__":
    main()
