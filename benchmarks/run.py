"""Time and memory of one training step of the loss, for dbloss and for what it is compared with.

    python benchmarks/run.py

measures every provider on every size and loss, what each loss costs in steps of Dice on pages with
little and with much text, the first step of a process, the making of label maps, the finding of
boxes and their score, appends rows to `results.csv`, prints them and draws `docs/speed.png`.
`--only losses`, or `prices`, `starts`, `targets`, `boxes` or `score`, measures one of them,
`--quick` takes a few minutes, `--device gpu` needs a CUDA build of Paddle.
"""

import argparse
import csv
import ctypes
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING
from unittest.mock import patch

import plot

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument(
        "--only",
        choices=["losses", "prices", "starts", "targets", "boxes", "score"],
        help="measure one part",
    )
    parser.add_argument("--quick", action="store_true", help="two sizes and three losses only")
    parser.add_argument("--seconds", type=float, default=12, help="time for a size and a loss")
    parser.add_argument("--out", type=Path, default=plot.TABLE, help="the table")
    parser.add_argument("--picture", type=Path, default=plot.PICTURE)
    arguments = parser.parse_args()  # before the imports below, which take seconds

import dbloss
import plain_boxes
import plain_score
import plain_targets
from dbloss import _plain, boxes, score, targets
from dbloss.engine import operators

import cv2
import numba
import numpy as np
import paddle
from tqdm import tqdm

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).parent
PARTS = ("losses", "prices", "starts", "targets", "boxes", "score")
SIZES = [
    (1, 64, 64),
    (1, 160, 160),
    (8, 160, 160),
    (1, 640, 640),
    (8, 640, 640),
    (16, 736, 736),
    (32, 1024, 1024),
]
QUICK_SIZES = [(1, 64, 64), (8, 640, 640)]
LOSSES = ["DiceLoss", "BCELoss", "OHEMDiceLoss", "Euclidean", "MaskL1Loss", "DiceFocalLoss"]
# What the newest configurations of PaddleOCR train with: four maps of one size.
PP_OCR_V6 = "PP-OCRv6"
AUXILIARY = {"aux_maps_p4": 0.2, "aux_maps_p3": 0.3, "aux_maps_p2": 0.4}
REFERENCE_SIZE = (8, 640, 640)
PRICED = [*LOSSES[1:3], "TverskyLoss", "DiceBCELoss", "DiceFocalLoss", PP_OCR_V6]
WORDS = {"6 % text": 6, "36 % text": 40}  # on a page
PAGE = 640
TEXTS = {"20 quads": (20, 2), "100 quads": (100, 2), "20 curved": (20, 7)}  # points along a side
# The maps that a trained detector gave for photographs.
PHOTOGRAPHS = HERE.parent / "tests" / "data" / "paddleocr_boxes.npz"
BOXES = {"quads": {}, "slow": {"score_mode": "slow"}, "polygons": {"box_type": "poly"}}
SCORES = (100, 300, 3000)  # boxes
PLAIN_SCORES = (100, 300)  # beyond which it takes minutes

Batch = tuple[np.ndarray, list[np.ndarray]]
Providers = Callable[[Batch, str, str], dict[str, object]]


def make_batch(n: int, h: int, w: int) -> Batch:
    """Return maps and labels as random tensors: a tenth of the pixels text, a twentieth ignored."""
    rng = np.random.default_rng(0)
    maps = rng.random((n, 3, h, w), dtype=np.float32)
    text = (rng.random((n, h, w), dtype=np.float32) < 0.1).astype(np.float32)
    valid = (rng.random((n, h, w), dtype=np.float32) < 0.95).astype(np.float32)
    threshold = 0.3 + 0.4 * rng.random((n, h, w), dtype=np.float32)
    return maps, [threshold, valid, text, valid]


def make_pages(words: int) -> Batch:
    """Return random maps and the labels of pages with some words each, one in seven ignored."""
    n, h, w = REFERENCE_SIZE
    rng = np.random.default_rng(931)
    t, k, g, m = (np.full((n, h, w), value, np.float32) for value in (0.3, 0, 0, 1))
    for page, word in np.ndindex(n, words):
        size = rng.uniform(30, 220), rng.uniform(12, 60)
        centre = rng.uniform(15, w + 65), rng.uniform(6, h + 15)
        box = cv2.boxPoints((centre, size, rng.uniform(-15, 15))).astype(np.int32)
        if word % 7 == 6:
            cv2.fillPoly(m[page], [box], 0)
        else:
            cv2.polylines(k[page], [box], True, 1, 9)
            cv2.polylines(t[page], [box], True, 0.7, 5)
            cv2.fillPoly(g[page], [box], 1)
    return rng.random((n, 3, h, w), dtype=np.float32), [t, k, g * m, m]


def make_texts(count: int, points: int) -> list[np.ndarray]:
    """Return polygons of a page, each an upper side of some points and a lower one, as float32."""
    rng = np.random.default_rng(0)
    along = np.linspace(-0.5, 0.5, points)
    texts = []
    for _ in range(count):
        width, height = rng.uniform(40, 160), rng.uniform(12, 40)
        bend = rng.uniform(-30, 30) if points > 2 else 0
        middle = np.stack((width * along, bend * (1 - 4 * along**2)), axis=1)
        down = np.array((0, height / 2))
        text = np.concatenate((middle - down, middle[::-1] + down))
        angle = rng.uniform(-0.3, 0.3)
        turn = [(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))]
        text = text @ turn + rng.uniform(60, PAGE - 60, 2)
        texts.append(text.astype(np.float32))
    return texts


def make_maps() -> dict[str, np.ndarray]:
    """Return probability maps `[N, H, W]` by what is on them."""
    with np.load(PHOTOGRAPHS) as stored:
        photographs = np.stack(list(stored.values())).astype(np.float32) / np.float32(255)
    rng = np.random.default_rng(0)
    page = np.zeros((1280, 1280), np.float32)
    across, down = 1280 / 20, 1280 / 36
    for row, column in np.ndindex(36, 20):
        centre = ((column + 0.5) * across, (row + 0.5) * down)
        size = (rng.uniform(0.4, 0.7) * across, rng.uniform(0.25, 0.4) * down)
        word = cv2.boxPoints((centre, size, rng.uniform(-4, 4)))
        cv2.fillPoly(page, [word.astype(np.int32)], 1.0)
    page = cv2.GaussianBlur(page, (0, 0), 1.0)
    return {"12 photographs": photographs, "page of 720 words": page[None]}


class PaddleStep:
    """Forward and backward of a loss on Paddle tensors that are no leaves, like a model's output.

    The loss takes as many maps as `count` says, and the labels.
    """

    def __init__(
        self, loss: Callable[..., paddle.Tensor], batch: Batch, engine: str, count: int = 1
    ) -> None:
        self.loss, self.engine = loss, engine
        maps, labels = batch
        self.shape = list(maps.shape)
        self.leaves = [paddle.to_tensor(maps).flatten(2) for _ in range(count)]
        for leaf in self.leaves:
            leaf.stop_gradient = False
        self.labels = [None, *map(paddle.to_tensor, labels)]

    def prepare(self) -> None:
        """Choose the engine, and make the maps, as a network would have."""
        os.environ["DBLOSS_ENGINE"] = self.engine
        self.maps = [leaf.reshape(self.shape) for leaf in self.leaves]

    def forward(self) -> paddle.Tensor:
        """Return the total loss."""
        return self.loss(*self.maps, self.labels)

    def backward(self, loss: paddle.Tensor) -> None:
        """Compute the gradient of the maps."""
        loss.backward()

    def clear(self) -> None:
        """Drop the gradients and the maps."""
        self.maps = []
        for leaf in self.leaves:
            leaf.grad = None

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        if not self.leaves[0].place.is_cpu_place():
            paddle.device.synchronize()

    def operators(self) -> int:
        """Return how many operators of Paddle a step takes where no value is read on the host."""
        tracing = paddle.profiler.Profiler(
            targets=[paddle.profiler.ProfilerTarget.CPU], on_trace_ready=lambda _: None
        )
        with patch.object(operators._Sweeps, "_on_host", lambda *_: False):
            tracing.start()
            self.prepare()
            self.backward(self.forward())
            tracing.stop()
        self.clear()
        nodes, count = list(tracing.profiler_result.get_data().values()), 0
        while nodes:
            node = nodes.pop()
            nodes += node.children_node
            count += node.type == paddle.profiler.TracerEventType.Operator
        return count


class TorchStep:
    """The same on a PyTorch tensor."""

    def __init__(self, loss: Callable[..., "torch.Tensor"], batch: Batch, device: str) -> None:
        import torch

        self.loss, self.wait = loss, torch.cuda.synchronize
        maps, labels = batch
        self.shape = maps.shape
        self.leaf = torch.tensor(maps, device=device).flatten(2).requires_grad_()
        self.labels = [None, *(torch.tensor(label, device=device) for label in labels)]

    def prepare(self) -> None:
        """Make the maps, as a network would have."""
        self.maps = self.leaf.reshape(self.shape)

    def forward(self) -> "torch.Tensor":
        """Return the total loss."""
        return self.loss(self.maps, self.labels)

    def backward(self, loss: "torch.Tensor") -> None:
        """Compute the gradient of the maps."""
        loss.backward()

    def clear(self) -> None:
        """Drop the gradient and the maps."""
        self.leaf.grad = self.maps = None

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        if self.leaf.is_cuda:
            self.wait()


class LimitStep:
    """Two plain loops, for scale: read the seven maps; read them again and write a gradient."""

    def __init__(self, batch: Batch) -> None:
        from dbloss.engine import fused

        maps, labels = batch
        rows = [channel.reshape(len(maps), -1) for channel in np.moveaxis(maps, 1, 0)]
        self.rows = (
            rows
            + [label.reshape(len(maps), -1) for label in labels[:3]]
            + [labels[3].reshape(len(maps), -1).copy()]
        )
        self.fused, self.blocks = fused, fused._blocks(*self.rows[0].shape)

    def prepare(self) -> None:
        """All is there."""

    def forward(self) -> float:
        """Read the maps."""
        return sum(self.fused._spread(lambda b: _read(*(r[b] for r in self.rows)), self.blocks))

    def backward(self, total: float) -> None:
        """Read the maps and write three."""
        out = self.fused._empty((self.rows[0].shape[0], 3, self.rows[0].shape[1]), np.float32)

        def write(block: tuple[int, slice]) -> None:
            n, pixels = block
            _write(*(r[block] for r in self.rows), *(out[n, c, pixels] for c in range(3)))

        self.fused._spread(write, self.blocks)

    def clear(self) -> None:
        """Nothing is kept."""

    def synchronize(self) -> None:
        """Nothing is pending."""


@numba.njit(nogil=True, cache=True, fastmath=True)
def _read(a, b, c, d, e, f, g):
    total = 0.0
    for i in range(a.size):
        total += a[i] + b[i] + c[i] + d[i] + e[i] + f[i] + g[i]
    return total


@numba.njit(nogil=True, cache=True, fastmath=True)
def _write(a, b, c, d, e, f, g, x, y, z):
    for i in range(a.size):
        x[i] = a[i] + d[i]
        y[i] = b[i] + e[i] + g[i]
        z[i] = c[i] + f[i]


def providers(batch: Batch, kind: str, device: str) -> dict[str, object]:
    """Return a step of each provider that has this loss."""
    if kind == PP_OCR_V6:
        return v6_providers(batch, device)
    layer = dbloss.DBLoss(main_loss_type=kind)

    def ours(maps: paddle.Tensor, labels: list[paddle.Tensor]) -> paddle.Tensor:
        return layer({"maps": maps}, labels)["loss"]

    steps: dict[str, object] = {}
    if device == "cpu":
        steps["dbloss fused"] = PaddleStep(ours, batch, "fused")
    steps["dbloss operators"] = PaddleStep(ours, batch, "operators")

    def formulas(maps: paddle.Tensor, labels: list[paddle.Tensor]) -> paddle.Tensor:
        return _plain.db_loss(maps, labels, kind)

    steps["plain formulas"] = PaddleStep(formulas, batch, "auto")
    if kind == "DiceLoss" and device == "cpu":
        steps["limit"] = LimitStep(batch)
    return steps


def torch_providers(batch: Batch, kind: str, device: str) -> dict[str, object]:
    """Return a step of PyTorch, which is imported here: Python is slower beside it."""
    import torch_plain

    where = "cuda" if device == "gpu" else "cpu"
    losses = {"eager": torch_plain.db_loss, "compiled": torch_plain.compiled()}
    return {f"PyTorch {name}": TorchStep(loss, batch, where) for name, loss in losses.items()}


def v6_providers(batch: Batch, device: str) -> dict[str, object]:
    """Return a step of each provider with the four maps of PP-OCRv6."""
    weights = {f"aux_weight_{name[-2:]}": weight for name, weight in AUXILIARY.items()}
    layer = dbloss.DBLoss(
        main_loss_type="DiceFocalLoss", focal_alpha=0.25, focal_gamma=2.5, **weights
    )

    def ours(*given: object) -> paddle.Tensor:
        *maps, labels = given
        return layer(dict(zip(("maps", *AUXILIARY), maps)), labels)["loss"]

    def formulas(*given: object) -> paddle.Tensor:
        *maps, labels = given
        losses = [_plain.db_loss(x, labels, "DiceFocalLoss", gamma=2.5) for x in maps]
        return sum(weight * loss for weight, loss in zip((1, *AUXILIARY.values()), losses))

    engines = ["fused", "operators"] if device == "cpu" else ["operators"]
    steps = {f"dbloss {engine}": PaddleStep(ours, batch, engine, 4) for engine in engines}
    return steps | {"plain formulas": PaddleStep(formulas, batch, "auto", 4)}


def measure(
    steps: dict[str, object], seconds: float
) -> Iterator[tuple[str, str, str, list[float]]]:
    """Yield (provider, what, unit, values), the providers taking turns so that noise hits all."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(2):
            step.prepare()
            step.backward(step.forward())
            step.clear()
    for _ in rounds(seconds):
        for name, step in steps.items():
            step.prepare()
            step.synchronize()
            begin = perf_counter()
            loss = step.forward()
            step.synchronize()
            middle = perf_counter()
            step.backward(loss)
            step.synchronize()
            end = perf_counter()
            step.clear()
            del loss
            times[name].append((middle - begin, end - middle))
    for name, pairs in times.items():
        yield name, "forward", "ms", [1000 * f for f, _ in pairs]
        yield name, "backward", "ms", [1000 * b for _, b in pairs]
        yield name, "whole", "ms", [1000 * (f + b) for f, b in pairs]


def measure_prices(
    batch: Batch, seconds: float
) -> Iterator[tuple[str, str, str, str, list[float]]]:
    """Yield the same after the loss: milliseconds, and how many steps of Dice a step takes.

    The losses take turns, and each is divided by the step of Dice of its own round.
    """
    steps = {kind: providers(batch, kind, "cpu")["dbloss fused"] for kind in ("DiceLoss", *PRICED)}
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for count, _ in enumerate(rounds(seconds)):
        for kind, step in steps.items():
            step.prepare()
            begin = perf_counter()
            step.backward(step.forward())
            if count >= 2:  # the first warm up
                times[kind].append(1000 * (perf_counter() - begin))
            step.clear()
    for kind, values in times.items():
        yield kind, "dbloss fused", "whole", "ms", values
        ratios = np.array(values) / np.array(times["DiceLoss"])
        yield kind, "dbloss fused", "price", "steps of Dice", ratios.tolist()


START = """
import sys, time
import paddle
begin = time.perf_counter()
import dbloss
maps = paddle.rand([1, 3, 64, 64])
maps.stop_gradient = False
ones = paddle.ones([1, 64, 64])
labels = [None, 0.5 * ones, ones, (paddle.rand([1, 64, 64]) < 0.1).astype("float32"), ones]
settings = eval(sys.argv[1])
maps = {name: maps for name in ("maps", "aux_maps_p4", "aux_maps_p3", "aux_maps_p2")}
dbloss.DBLoss(check_batches=0, **settings)(maps, labels)["loss"].backward()
print(time.perf_counter() - begin)
"""


def measure_starts(settings: dict[str, object], repeats: int = 5) -> Iterator[tuple[str, float]]:
    """Yield the seconds from `import paddle` to the end of a first step, by what is on disk."""
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {
                "NUMBA_CACHE_DIR": folder,
                "DBLOSS_ENGINE": "fused",
                "PYTHONPATH": str(HERE.parent),
            }
            for on_disk in ("nothing on disk", "loops on disk"):
                command = [sys.executable, "-W", "ignore", "-c", START, repr(settings)]
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, check=True
                )
                yield on_disk, float(done.stdout.split()[-1])


def rounds(seconds: float) -> Iterator[int]:
    """Count for some seconds, at least to 5 and at most to 200."""
    start = perf_counter()
    for count in range(200):
        if count >= 5 and perf_counter() - start > seconds:
            return
        yield count


def measure_targets(
    texts: list[np.ndarray], seconds: float
) -> Iterator[tuple[str, str, str, list[float]]]:
    """Yield the same for the making of label maps."""
    makers = {"plain NumPy": plain_targets.make_targets, "dbloss": targets.make_targets}
    ignored = [False] * len(texts)
    calls = {name: partial(make, texts, ignored, PAGE, PAGE) for name, make in makers.items()}
    yield from take_turns(calls, "label maps", seconds)


def measure_boxes(
    maps: np.ndarray, settings: dict[str, object], seconds: float
) -> Iterator[tuple[str, str, str, list[float]]]:
    """Yield the same for the boxes of all maps, and how many they are."""
    settings = {"height": maps.shape[1], "width": maps.shape[2]} | settings

    def plain() -> list[tuple[list[np.ndarray], list[float]]]:
        return [plain_boxes.find_boxes(probability, **settings) for probability in maps]

    find = partial(boxes.find_boxes, maps[:, None], **settings)
    yield from take_turns({"plain NumPy": plain, "dbloss": find}, "boxes", seconds)
    yield "dbloss", "boxes found", "boxes", [sum(len(found.scores) for found in find())]


def make_found(count: int) -> tuple[list[np.ndarray], list[np.ndarray], list[bool]]:
    """Return the boxes found on a page of as many words, the words, and which are ignored."""
    rng = np.random.default_rng(0)
    columns = int(np.sqrt(count))
    places = np.stack((np.arange(count) % columns, np.arange(count) // columns), axis=1)
    angle = rng.normal(0, 0.05, count)
    turn = np.moveaxis([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))], 2, 0)
    words = np.array([(0, 0), (50, 0), (50, 16), (0, 16)]) @ turn + 8 + (60, 24) * places[:, None]
    found = (words + rng.normal(0, 1.5, words.shape)).round().astype(np.int32)
    ignored = rng.random(count) < 0.1
    return list(rng.permutation(found)), list(words.astype(np.float32)), ignored.tolist()


def measure_score(count: int, seconds: float) -> Iterator[tuple[str, str, str, list[float]]]:
    """Yield the same for the match of a page of boxes with its words."""
    page = make_found(count)
    calls = {"dbloss": partial(score.match, *page)}
    if count in PLAIN_SCORES:
        calls = {"pair by pair": partial(plain_score.match, *page)} | calls
    yield from take_turns(calls, "match", seconds)


def take_turns(
    calls: dict[str, Callable[[], object]], what: str, seconds: float
) -> Iterator[tuple[str, str, str, list[float]]]:
    """Yield the milliseconds of each call, in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in rounds(seconds):
        for name, call in calls.items():
            begin = perf_counter()
            made = call()
            times[name].append(1000 * (perf_counter() - begin))
            del made
    for name, values in times.items():
        yield name, what, "ms", values


def peak_memory(step: object, device: str) -> float:
    """Return the memory a step takes above its inputs, in MiB."""
    if device == "gpu":
        paddle.device.cuda.reset_max_memory_allocated()
        before = paddle.device.cuda.memory_allocated()
    else:
        # What earlier steps have left for the next goes back, and the peak begins anew.
        if "dbloss.engine.fused" in sys.modules:
            sys.modules["dbloss.engine.fused"]._spares.clear()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = 1024 * _status("VmRSS")
    step.prepare()
    step.backward(step.forward())
    step.synchronize()
    after = (
        paddle.device.cuda.max_memory_allocated() if device == "gpu" else 1024 * _status("VmHWM")
    )
    step.clear()
    return (after - before) / 2**20


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _git(*words: str) -> str:
    command = ["git", *words]
    return subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True).stdout.strip()


def environment(device: str) -> dict[str, object]:
    """Return what a row says of the machine and the versions."""
    commit = _git("rev-parse", "--short", "HEAD")
    if _git("status", "--porcelain", "--", "dbloss", "benchmarks/*.py"):
        commit += "-dirty"
    name = platform.processor() or platform.machine()
    if device == "gpu":
        name = paddle.device.cuda.get_device_name()
    elif (info := Path("/proc/cpuinfo")).exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(": ", 1)[1] if models else name
    return {
        "date": datetime.now().isoformat(timespec="seconds"),
        "commit": commit,
        "device": name,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "paddle": paddle.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "torch": version("torch") if _has_torch() else "",
    }


def table(rows: list[dict[str, object]]) -> str:
    """Return what was measured as a table, the medians with their 20 and 80 % quantiles."""
    lines = [("what", "case", "provider", "median", "20 to 80 %", "unit")]
    for row in rows:
        size = " x ".join(str(row[axis]) for axis in ("images", "height", "width") if row[axis])
        case = f"{row['main_loss_type']}, {size}"
        quantiles = f"{row['q20']} to {row['q80']}"
        lines.append((row["what"], case, row["provider"], row["median"], quantiles, row["unit"]))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )


def main(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Measure, append to the table, print what was measured, draw."""
    try:
        paddle.set_device(arguments.device)
    except ValueError as error:  # of a wheel without CUDA
        parser.error(f"--device: {error}")
    sizes = QUICK_SIZES if arguments.quick else SIZES
    losses = [*(LOSSES[:3] if arguments.quick else LOSSES), PP_OCR_V6]
    cases = [
        (size, kind)
        for size in sizes
        for kind in losses
        if kind in LOSSES[:2] or size == REFERENCE_SIZE
    ]
    parts = [arguments.only] if arguments.only else PARTS
    rows = []

    def add(case: dict[str, object], results: Iterable[tuple[str, str, str, list[float]]]) -> None:
        for provider, what, unit, values in results:
            low, middle, high = np.quantile(values, [0.2, 0.5, 0.8])
            numbers = {"median": middle, "q20": low, "q80": high}
            rows.append(
                case
                | {"provider": provider, "what": what, "unit": unit}
                | {key: f"{value:.4g}" for key, value in numbers.items()}
                | {"repeats": len(values)}
            )

    def add_losses(cases: list[tuple[tuple[int, int, int], str]], make: Providers) -> None:
        for size, kind in tqdm(cases, desc="losses", unit="case"):
            steps = make(make_batch(*size), kind, arguments.device)
            case = (
                of_losses
                | dict(zip(("images", "height", "width"), size))
                | {"main_loss_type": kind}
            )
            add(case, measure(steps, arguments.seconds))
            for name, step in steps.items():
                if isinstance(step, PaddleStep) and step.engine != "fused":
                    add(case, [(name, "operators", "operators", [step.operators()])])
            for name, step in steps.items():
                values = [peak_memory(step, arguments.device) for _ in range(3)]
                add(case, [(name, "peak memory", "MiB", values)])

    of_losses = environment(arguments.device)
    if "losses" in parts:
        add_losses(cases, providers)
    if "prices" in parts and arguments.device == "cpu":
        known = environment("cpu") | dict(zip(("images", "height", "width"), REFERENCE_SIZE))
        for name, words in tqdm(WORDS.items(), desc="prices", unit="case"):
            seconds = len(PRICED) * arguments.seconds
            for kind, *result in measure_prices(make_pages(words), seconds):
                add(known | {"main_loss_type": f"{kind}, {name}"}, [tuple(result)])
    if "starts" in parts and arguments.device == "cpu":
        known = environment("cpu") | {"images": 1, "height": 64, "width": 64}
        v6 = {"main_loss_type": "DiceFocalLoss", "focal_gamma": 2.5}
        v6 |= {f"aux_weight_{name[-2:]}": weight for name, weight in AUXILIARY.items()}
        for name, settings in {"DiceLoss": {}, PP_OCR_V6: v6}.items():
            found: dict[str, list[float]] = {}
            for on_disk, seconds in measure_starts(settings):
                found.setdefault(on_disk, []).append(seconds)
            for on_disk, values in found.items():
                case = known | {"main_loss_type": name}
                add(case, [("dbloss fused", f"first step, {on_disk}", "s", values)])
    if "targets" in parts:
        known = environment("cpu")
        for name, (count, points) in tqdm(TEXTS.items(), desc="targets", unit="case"):
            case = known | {"images": 1, "height": PAGE, "width": PAGE, "main_loss_type": name}
            add(case, measure_targets(make_texts(count, points), arguments.seconds))
    if "boxes" in parts:
        known = environment("cpu")
        cases = [(*page, *kind) for page in make_maps().items() for kind in BOXES.items()]
        for page, maps, kind, settings in tqdm(cases, desc="boxes", unit="case"):
            case = known | dict(zip(("images", "height", "width"), maps.shape))
            case["main_loss_type"] = f"{page}, {kind}"
            add(case, measure_boxes(maps, settings, arguments.seconds))
    if "score" in parts:
        known = environment("cpu")
        for count in tqdm(SCORES, desc="score", unit="case"):
            case = known | {"images": 1, "height": "", "width": ""}
            case["main_loss_type"] = f"{count} boxes"
            add(case, measure_score(count, arguments.seconds))
    if "losses" in parts and _has_torch():
        add_losses([(size, "DiceLoss") for size in sizes], torch_providers)
    fresh = not arguments.out.exists()
    with arguments.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if fresh:
            writer.writeheader()
        writer.writerows(rows)
    print(table(rows))
    print(f"added to {arguments.out}")
    if "losses" in parts:
        plot.draw(arguments.out, arguments.picture)


if __name__ == "__main__":
    main(parser, arguments)
