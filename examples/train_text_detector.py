r"""Train a small DBNet with DBLoss on rendered words or on photographs, and show what it finds.

    pip install ".[cpu,examples]"                            # beside a GPU wheel without cpu
    python examples/train_text_detector.py                   # about 5 minutes on 2 CPU cores
    python examples/train_text_detector.py --steps 300 --loss BCELoss --bias -4 --limits best
    python examples/train_text_detector.py --labels train.txt --test-labels test.txt --steps 1000 \
        --loss BCELoss --text-balance 0.5 --bias -4 --limits best

The detector is trained from scratch, and `--loss BCELoss` with its settings is for that alone: with
trained weights take `TverskyLoss` (docs/which-loss.md).

Without labels, pages of words are drawn while the detector learns from them. With PaddleOCR's label
files it learns from crops of photographs; a tenth of them is held out, to choose limits on with
`--limits best`. Precision, recall and hmean on pages that are neither trained on nor held out are
printed, and the output folder then holds:

    photograph.png   `skimage.data.page()` with a box around each word that was found; with labels
                     in its place `photographs`, a folder of the first test photographs with the
                     boxes found in orange, the true ones in green and ignored ones in grey
    maps.png         for a page that was not trained on the predicted maps, their targets, the loss
                     of each pixel and the hard negatives
    losses.png       the loss and its three parts, step by step
    limits.png       with `--limits best`, the score at all that were tried
    model.pdparams   the weights: `model.set_state_dict(paddle.load("model.pdparams"))`
    checkpoint.pdparams   with what the optimizer knows, so that `--resume` goes on from there

Ctrl-C ends the training; all this is then printed and written for the steps done.
The training step, the part to copy into a loop of your own, is `Training.step`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import options
from options import BATCH
from options import add_data_options as add_data_options

if __name__ == "__main__":
    options.text_detector(__doc__).parse_args()  # before the imports below, which take seconds

try:
    from dbloss import DBLoss, differentiable_binarization
    from dbloss.boxes import find_boxes
    from dbloss.plot import plot_batch, plot_history, plot_limits
    from dbloss.score import Hmean, Limits, search_limits
    from dbloss.targets import make_targets
    from photographs import SIZE as CROP
    from photographs import Page, Photographs, random_crop, read_labels

    import cv2
    import numpy as np
    import paddle
    import skimage.data
    from matplotlib import get_data_path
    from matplotlib.figure import Figure
    from paddle import nn
    from PIL import Image, ImageDraw, ImageFont
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f'{error}\nThe examples need more than the losses: pip install ".[examples]"')

SIZE = 160  # of a rendered page, in pixels
RATE = 5e-3
HELD_OUT = 100  # rendered pages
SETTINGS = ("loss", "bce_weight", "text_balance", "bias", "seed")
SAVE_EVERY, SAY_EVERY = 250, 10  # steps
LONGEST = 960  # side of an image that words are looked for in
GRID = {
    "thresh": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
    "box_thresh": [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85],
}
PAGE_SCALE = 1.75  # brings the letters of the printed page to the sizes trained on
PICTURES = 8  # photographs that are drawn
FOUND, TRUE, IGNORED = (213, 94, 0), (0, 158, 115), (153, 153, 153)
LETTERS = list("eeeeetttaaaooiinnsshhrrddlcumwfgypbvkjxqz")  # common letters more often
FONTS = [
    str(path)
    for path in sorted(Path(get_data_path(), "fonts/ttf").glob("*.ttf"))
    if path.stem.startswith(("DejaVuSans", "DejaVuSerif", "STIXGeneral"))
    and not path.stem.endswith("Display")  # these hold a few symbols only
]


class Pair(NamedTuple):
    """The limits above which a pixel is text, and from which a box is kept."""

    thresh: float
    box_thresh: float


PADDLEOCR = Pair(0.3, 0.6)
Colour = tuple[int, int, int]
Draw = Callable[[np.random.Generator], Page]


# ---- 1. Pages of words whose corners are known -----------------------------------------------


def random_word(rng: np.random.Generator) -> str:
    word = "".join(rng.choice(LETTERS, 2 + rng.poisson(3)))
    word = rng.choice([word, word, word, word.capitalize(), word.upper()])
    return word + rng.choice(list(".,:-()!7")) if rng.random() < 0.15 else word


def random_colour(rng: np.random.Generator, brightness: float) -> tuple[int, ...]:
    """Return a grey of the given brightness, in [0, 255], with a slight tint."""
    tint = rng.normal(0, 25, 3)
    return tuple(np.clip(brightness + tint - tint.mean(), 0, 255).astype(int).tolist())


def draw_clutter(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Draw one thing that is no word: a rule, a panel, an ellipse or a row of strokes."""
    x, y = rng.integers(0, SIZE, 2).tolist()
    w, h = rng.integers(8, SIZE // 2, 2).tolist()
    colour, width = random_colour(rng, rng.uniform(0, 255)), int(rng.integers(1, 4))
    kind = rng.integers(4)
    if kind == 0:
        draw.line((x - w, y, x + w, y), fill=colour, width=width)
    elif kind == 1:
        draw.rectangle((x, y, x + w, y + h), fill=colour)
    elif kind == 2:
        draw.ellipse((x, y, x + w, y + h), outline=colour, width=width)
    else:
        for left in range(x, x + w, 2 * width + 2):
            draw.line((left, y, left + h // 4, y + h // 2), fill=colour, width=width)


def render_page(rng: np.random.Generator, fill: float = 0.9, clutter: int = 6) -> Page:
    """Draw lines of words on a cluttered page, turn it a little and photograph it.

    Args:
        rng: source of everything random; the same state gives the same page.
        fill: share of the places for a word that hold one, in [0, 1].
        clutter: the most things on the page that are no words.
    """
    canvas = Image.new("RGB", (SIZE, SIZE), random_colour(rng, rng.uniform(30, 255)))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(clutter + 1)):
        draw_clutter(draw, rng)
    turn = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), rng.uniform(-8, 8), 1.0)

    words, top, new_style = [], rng.uniform(-10, 20), True
    while top < SIZE:
        if new_style:
            size = int(rng.choice([16, 18, 20, 22, 24, 26, 30, 36, 44]))
            font = ImageFont.truetype(rng.choice(FONTS), size)
            contrast, gap = rng.uniform(70, 200), size * rng.uniform(0.4, 0.9)
        left = rng.uniform(-20, 20)
        while left < SIZE:
            word = random_word(rng)
            x0, y0, x1, y1 = np.add(draw.textbbox((left, top), word, font), (-1, -1, 1, 1))
            flat = np.float32([[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]])
            corners = cv2.transform(flat, turn)[0]
            if rng.random() < fill and corners.min() >= 0 and corners.max() < SIZE:
                paper = np.asarray(canvas.crop((int(x0), int(y0), int(x1), int(y1)))).mean()
                ink = paper - contrast if paper > 128 else paper + contrast
                draw.text((left, top), word, random_colour(rng, ink), font)
                words.append(corners)
            left = x1 + gap
        top += size * rng.uniform(1.15, 1.6)
        new_style = rng.random() < 0.4

    photo = cv2.warpAffine(np.asarray(canvas), turn, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.1, 1.2)).astype(np.float32)
    light = np.linspace(*rng.uniform(0.6, 1.1, 2), SIZE)
    photo *= light[:, None, None] if rng.random() < 0.5 else light[:, None]
    photo += rng.normal(0, rng.uniform(0, 12), (SIZE, SIZE, 1))
    return Page(photo.clip(0, 255).astype(np.uint8), words, [False] * len(words))


def to_input(image: np.ndarray) -> np.ndarray:
    """Turn uint8 [H, W, 3] into what the network takes: float32 [3, H, W] in [-1, 1]."""
    return np.float32(image.transpose(2, 0, 1) / 127.5 - 1)


def to_sample(page: Page, text_balance: float = 0) -> tuple[np.ndarray, ...]:
    """Turn a page into what PaddleOCR's loader gives: the image, then its label maps."""
    height, width = page.image.shape[:2]
    maps = make_targets(page.texts, page.ignored, height, width, text_balance=text_balance)
    return to_input(page.image), *maps


class Pages(paddle.io.Dataset):
    """Samples of pages, each drawn by `draw(rng)`."""

    def __init__(
        self, seed: int, count: int, draw: Draw = render_page, text_balance: float = 0
    ) -> None:
        self.seed, self.count, self.draw, self.text_balance = seed, count, draw, text_balance

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[np.ndarray, ...]:
        # Each page has a generator of its own, so it is the same whichever worker draws it.
        return to_sample(self.draw(np.random.default_rng([self.seed, 0, i])), self.text_balance)


def batches(pages: Pages, indices: Iterable[Sequence[int]]) -> Iterator[list[paddle.Tensor]]:
    """Yield the batches of pages with these indices; a thread draws the next during a step.

    What is wrong with a page is raised here: the loader of Paddle that draws in a thread,
    `paddle.io.DataLoader` with `num_workers=0`, waits for that page for ever.
    """

    def drawn(batch: Sequence[int]) -> list[np.ndarray]:
        return [np.stack(part) for part in zip(*(pages[i] for i in batch))]

    with ThreadPoolExecutor(1) as thread:
        ahead = (thread.submit(drawn, batch) for batch in indices)
        following = next(ahead, None)
        while following:
            arrays, following = following.result(), next(ahead, None)
            yield [paddle.to_tensor(array) for array in arrays]


# ---- 2. The detector -------------------------------------------------------------------------


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2D(inputs, outputs, 3, stride, 1, bias_attr=False),
        nn.BatchNorm2D(outputs),
        nn.ReLU(),
    )


def branch(inputs: int, bias: float = 0) -> nn.Sequential:
    """Turn features at a quarter of the page's size into one map of its full size, in [0, 1].

    It starts near `sigmoid(bias)` everywhere.
    """
    start = paddle.ParamAttr(initializer=nn.initializer.Constant(bias))
    return nn.Sequential(
        conv(inputs, inputs // 2),
        nn.Conv2DTranspose(inputs // 2, inputs // 4, 2, 2),
        nn.BatchNorm2D(inputs // 4),
        nn.ReLU(),
        nn.Conv2DTranspose(inputs // 4, 1, 2, 2, bias_attr=start),
        nn.Sigmoid(),
    )


class DBNet(nn.Layer):
    """Backbone, feature pyramid and DB head. The page's sides are multiples of 32.

    With a `bias` of -4 the probability map starts as background. What is mined wants that: from
    0.5 everywhere BCELoss and OHEMDiceLoss go to nearly one number for all pixels.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (16, 24, 48, 64, 96),
        features: int = 32,
        bias: float = 0,
    ) -> None:
        super().__init__()
        self.stem = conv(3, widths[0], stride=2)
        self.stages = nn.LayerList(
            nn.Sequential(conv(a, b, stride=2), conv(b, b)) for a, b in zip(widths, widths[1:])
        )
        self.laterals = nn.LayerList(nn.Conv2D(width, features, 1) for width in widths[1:])
        self.probability, self.threshold = branch(features, bias), branch(features)

    def forward(self, images: paddle.Tensor) -> dict[str, paddle.Tensor]:
        x, levels = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        # From the coarsest level, which sees whole words, down to the finest, which sees strokes.
        x = self.laterals[-1](levels[-1])
        for lateral, level in list(zip(self.laterals, levels))[-2::-1]:
            x = nn.functional.interpolate(x, scale_factor=2) + lateral(level)
        p, t = self.probability(x), self.threshold(x)
        return {"maps": paddle.concat([p, t, differentiable_binarization(p, t)], axis=1)}


# ---- 3. Training -----------------------------------------------------------------------------


class Training:
    """A training: the model, the optimizer, and the losses of each step so far.

    All of it goes into a checkpoint, from which a training that was ended can go on.
    """

    def __init__(
        self,
        model: nn.Layer,
        loss_fn: nn.Layer,
        pages: Pages,
        batch: int = BATCH,
        rate: float = RATE,
        **settings: Any,
    ) -> None:
        self.model, self.loss_fn, self.pages, self.batch = model, loss_fn, pages, batch
        self.steps = len(pages) // batch
        self.settings = {"steps": self.steps, **settings}
        self.schedule = paddle.optimizer.lr.CosineAnnealingDecay(rate, T_max=self.steps)
        self.optimizer = paddle.optimizer.Adam(
            self.schedule,
            parameters=self.model.parameters(),
            grad_clip=nn.ClipGradByGlobalNorm(5.0),
        )
        self.history: list[dict[str, float]] = []

    def step(self, batch: list[paddle.Tensor]) -> None:
        """Do the training step.

        A batch is [image, threshold_map, threshold_mask, shrink_map, shrink_mask], and perhaps
        text_weights: DBLoss takes it as its labels whole, and does not read the image.
        """
        predicts = self.model(batch[0])
        losses = self.loss_fn(predicts, batch)
        losses["loss"].backward()  # the total; its parts are there to be logged
        self.optimizer.step()
        self.optimizer.clear_grad()
        self.schedule.step()
        self.history.append({name: float(loss) for name, loss in losses.items()})

    def run(self, until: int | None = None, checkpoint: Path | None = None, **look: Any) -> bool:
        """Train up to a step, by default the last; return False if Ctrl-C ended it before that.

        A checkpoint is written at the end and every 250 steps. `look` goes to tqdm's progress bar;
        a log file gets a line for the first step and for every tenth instead.
        """
        done, until = len(self.history), until or self.steps
        rest = [range(i * self.batch, (i + 1) * self.batch) for i in range(done, until)]
        stop = threading.Event()

        def end(*_: object) -> None:
            """Let the step be finished on Ctrl-C, and be ended by a second one."""
            stop.set()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.write(2, b"\nending after this step; Ctrl-C again ends at once\n")

        usual = signal.signal(signal.SIGINT, end)
        self.model.train()
        try:
            with tqdm(total=self.steps, initial=done, unit="step", disable=None, **look) as bar:
                for batch in batches(self.pages, rest):
                    self.step(batch)
                    losses = self.history[-1].items()
                    bar.set_postfix({short(k): f"{v:.2f}" for k, v in losses}, refresh=False)
                    bar.update()
                    done += 1
                    told = done == 1 or done % SAY_EVERY == 0
                    if bar.disable and told and done < self.steps:  # the last is told at the end
                        print(*filter(None, [look.get("desc")]), self, file=sys.stderr, flush=True)
                    if checkpoint and (done % SAVE_EVERY == 0 or done == until or stop.is_set()):
                        self.save(checkpoint)
                    if stop.is_set():
                        break
        finally:
            signal.signal(signal.SIGINT, usual)
        return done >= until

    def __str__(self) -> str:
        losses = (f"{short(name)} {loss:.6f}" for name, loss in self.history[-1].items())
        return " ".join([f"step {len(self.history)}:", *losses])

    def save(self, path: Path) -> None:
        """Write a checkpoint; the old one is replaced only once the new one is complete."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "settings": self.settings,
        }
        paddle.save(state, f"{path}.new")
        Path(f"{path}.new").replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, which has to be of the same settings and data."""
        if not path.exists():
            raise ValueError(
                f"there is no checkpoint {path} to go on from. Give the --out of the training that"
                " was ended, or leave out --resume to begin one."
            )
        try:
            state = paddle.load(str(path))
            theirs = state["settings"]
        except Exception as error:
            raise ValueError(
                f"{path}: expected a checkpoint of this program, got another file, or a broken one"
                f" ({type(error).__name__}: {error}). Delete it to begin anew."
            ) from error
        # A checkpoint of an older version may not hold all settings.
        differing = [name for name in theirs if theirs[name] != self.settings.get(name)]
        if differing:
            lines = [f"\n  {n}: {theirs[n]} there, {self.settings.get(n)} here" for n in differing]
            raise ValueError(
                f"{path} is of another training:{''.join(lines)}\nTo go on with that one, give its"
                " settings and data. To begin this one, give another folder as --out."
            )
        self.model.set_state_dict(state["model"])
        self.optimizer.set_state_dict(state["optimizer"])
        self.history = state["history"]


def short(name: str) -> str:
    """Turn "loss_shrink_maps" into "shrink"."""
    return name.removeprefix("loss_").removesuffix("_maps")


# ---- 4. From maps to boxes, and their score --------------------------------------------------


def predict(model: nn.Layer, image: np.ndarray) -> np.ndarray:
    """Return the maps P, T and B of an image, float32 [3, h, w].

    As in PaddleOCR the image is reduced to a longest side of 960, and its sides to multiples of 32.
    """
    size = np.array(image.shape[1::-1])
    fitting = np.maximum((size * min(LONGEST / size.max(), 1) / 32).round() * 32, 32).astype(int)
    model.eval()
    with paddle.no_grad():
        x = to_input(cv2.resize(image, fitting.tolist()))
        return model(paddle.to_tensor(x[None]))["maps"][0].numpy()


def watched(pages: Sequence[Page], desc: str = "score", **look: Any) -> Iterator[Page]:
    """Yield the pages under tqdm's progress bar; a log file gets about ten lines instead."""
    every = max(len(pages) // 10, 1)
    with tqdm(pages, unit="page", disable=None, desc=desc, **look) as bar:
        for i, page in enumerate(bar, 1):
            if bar.disable and (i == 1 or i % every == 0):
                print(f"{desc}: page {i} of {len(pages)}", file=sys.stderr, flush=True)
            yield page


def score(
    model: nn.Layer, pages: Sequence[Page], *limits: Pair, **look: Any
) -> list[dict[str, float]]:
    """Return precision, recall and hmean at each pair of limits; `look` is for the bar of tqdm."""
    metrics = {pair: Hmean() for pair in limits}
    for image, texts, ignored in watched(pages, **look):
        probability = predict(model, image)[0]
        for pair, metric in metrics.items():
            metric.update(boxes_on(image, probability, pair), texts, ignored)
    return [metrics[pair].accumulate() for pair in limits]


def boxes_on(image: np.ndarray, probability: np.ndarray, limits: Pair) -> list[np.ndarray]:
    """Return the boxes of the words on an image, in its pixels, from its probability map."""
    height, width = image.shape[:2]
    return find_boxes(probability, height=height, width=width, **limits._asdict()).polygons


def search(model: nn.Layer, pages: Sequence[Page], **look: Any) -> Limits:
    """Return the score at a grid of limits."""
    return searched(search_limits, model, pages, GRID, **look)


def searched(
    find: Callable[..., Any],
    model: nn.Layer,
    pages: Sequence[Page],
    settings: Mapping[str, Any],
    **look: Any,
) -> Any:
    """Return what a search of `dbloss.score` finds on the pages; `look` is for the bar of tqdm."""
    return find(
        (predict(model, page.image)[0] for page in watched(pages, **look)),
        (page.texts for page in pages),
        (page.ignored for page in pages),
        sizes=(page.image.shape[:2] for page in pages),
        **settings,
    )


def best_pair(limits: Limits) -> Pair:
    """Return the best limits, and PaddleOCR's where every hmean is 0 and none are better."""
    return Pair(*limits.best[:2]) if limits.best else PADDLEOCR


# ---- 5. Pictures -----------------------------------------------------------------------------


def draw_outlines(image: np.ndarray, outlines: Sequence[np.ndarray], colour: Colour) -> None:
    corners = [np.int32(np.round(outline)) for outline in outlines]
    cv2.polylines(image, corners, True, colour, 3, cv2.LINE_AA)


def draw_printed_page(model: nn.Layer, limits: Pair, path: Path) -> int:
    """Draw the boxes found on a photographed page of a book; return how many there are."""
    image = np.stack([skimage.data.page()] * 3, axis=-1)
    fitting, large = (
        cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        for zoom in (PAGE_SCALE, 4)
    )
    boxes = boxes_on(fitting, predict(model, fitting)[0], limits)
    draw_outlines(large, [box * 4 / PAGE_SCALE for box in boxes], FOUND)
    Image.fromarray(large).save(path)
    return len(boxes)


def add_legend(image: np.ndarray) -> Image.Image:
    """Return an image with what its colours mean below it."""
    height, width = image.shape[:2]
    picture = Image.new("RGB", (width, height + 26), "white")
    picture.paste(Image.fromarray(image))
    draw, font, x = ImageDraw.Draw(picture), ImageFont.truetype(FONTS[0], 16), 8
    for name, colour in (("found", FOUND), ("true", TRUE), ("ignored", IGNORED)):
        draw.rectangle((x, height + 11, x + 20, height + 14), colour)
        draw.text((x + 26, height + 3), name, "black", font)
        x += 44 + int(draw.textlength(name, font))
    return picture


def draw_photographs(model: nn.Layer, pages: Photographs, limits: Pair, folder: Path) -> None:
    """Draw photographs, the true boxes on them, and over these the boxes found."""
    folder.mkdir(exist_ok=True)
    for i, page in enumerate(pages):
        image = page.image.copy()
        for is_ignored, colour in ((True, IGNORED), (False, TRUE)):
            chosen = [t for t, ignored in zip(page.texts, page.ignored) if ignored == is_ignored]
            draw_outlines(image, chosen, colour)
        boxes = boxes_on(image, predict(model, page.image)[0], limits)
        draw_outlines(image, boxes, FOUND)
        # Photographs of several folders may have one name: their number comes first.
        add_legend(image).save(folder / f"{i}-{pages.labels[i].image.stem}.png")


def draw_maps(model: nn.Layer, pages: Sequence[Page], loss: str, balance: float) -> Figure:
    """Draw the maps of the page with the most words."""
    fullest = max(range(len(pages)), key=lambda i: len(pages[i].texts))
    samples = [to_sample(page, balance) for page in pages]
    return plot_batch(
        {"maps": paddle.to_tensor(np.stack([predict(model, page.image) for page in pages]))},
        [paddle.to_tensor(np.stack(part)) for part in zip(*samples)],
        image=pages[fullest].image,
        index=fullest,
        main_loss_type=loss,
    )


# ---- 6. All of it ----------------------------------------------------------------------------


class Data(NamedTuple):
    """What is trained on, and what is not: pages to choose limits on, and pages to measure on."""

    draw: Draw  # a page to train on
    draw_held_out: Draw  # one like it, not trained on
    held_out: Sequence[Page]
    test: Sequence[Page]


def rendered(seed: int, count: int, **style: Any) -> Data:
    """Return pages that are drawn; `style` is passed on to `render_page`."""
    draw = partial(render_page, **style)
    test, held_out = (
        [draw(np.random.default_rng([seed, part, i])) for i in range(count)] for part in (1, 2)
    )
    return Data(draw, draw, held_out, test)


def photographed(
    labels: Path, test_labels: Path, images: Path | None = None, crop: int = CROP
) -> Data:
    """Return square crops of photographs; every tenth of those to train on is held out."""
    lines = read_labels(labels, images, least=2)
    held_out = Photographs(lines[::10])
    trained = Photographs(line for i, line in enumerate(lines) if i % 10)
    test = Photographs(read_labels(test_labels, images))
    draw, draw_held_out = (partial(random_crop, pages, side=crop) for pages in (trained, held_out))
    return Data(draw, draw_held_out, held_out, test)


def read_data(args: argparse.Namespace, seed: int, crop: int = CROP, **rendering: Any) -> Data:
    """Return the pages that the options ask for; `crop` is the side of those of photographs."""
    if args.labels is None and args.test_labels is None:
        return rendered(seed, **rendering)
    if args.labels is None or args.test_labels is None:
        raise ValueError("--labels and --test-labels go together")
    return photographed(args.labels, args.test_labels, args.images, crop)


def describe_data(args: argparse.Namespace) -> str:
    """Return what is trained on, in words that change with the content of the label file."""
    if args.labels is None:
        return "rendered pages"
    return f"{args.labels.name} (CRC-32 {zlib.crc32(args.labels.read_bytes()):08x})"


def read_limits(words: list[str]) -> Pair | None:
    """Return the limits of `--limits 0.3 0.6`, None for `--limits best`."""
    if words == ["best"]:
        return None
    try:
        thresh, box_thresh = map(float, words)
    except ValueError:
        raise ValueError(f"--limits: expected two numbers or best, got {' '.join(words)}") from None
    return Pair(thresh, box_thresh)


def write_model(training: Training, folder: Path) -> None:
    """Write the weights and the losses of a training, and print the last of these."""
    paddle.save(training.model.state_dict(), str(folder / "model.pdparams"))
    plot_history(training.history).savefig(folder / "losses.png")
    print(training)


def search_and_draw(model: nn.Layer, pages: Sequence[Page], folder: Path) -> Limits:
    """Return the score at a grid of limits, and draw it."""
    grid = search(model, pages, desc="limits")
    plot_limits(grid).savefig(folder / "limits.png")
    return grid


def draw_all(
    model: nn.Layer, data: Data, limits: Pair, loss: str, balance: float, args: argparse.Namespace
) -> None:
    """Draw maps, and what is found at these limits; print what is there to be looked at."""
    pages = [data.draw_held_out(np.random.default_rng([args.seed, 1, i])) for i in range(BATCH)]
    draw_maps(model, pages, loss, balance).savefig(args.out / "maps.png")
    if args.labels:
        draw_photographs(model, data.test[:PICTURES], limits, args.out / "photographs")
        print(f"pictures and model are in {args.out}")
    else:
        words = draw_printed_page(model, limits, args.out / "photograph.png")
        print(f"{words} boxes on the photograph; pictures and model are in {args.out}")


def main() -> None:
    parser = options.text_detector(__doc__)
    args = parser.parse_args()
    if args.steps < 1 or args.seed < 0 or args.text_balance < 0:
        parser.error("--steps must be at least 1, --seed and --text-balance at least 0")
    warnings.filterwarnings("ignore", "When training, we now always track")  # Paddle's BatchNorm
    checkpoint = args.out / "checkpoint.pdparams"
    # Paddle numbers parameters throughout a process; a fresh count gives those of the checkpoint.
    with paddle.utils.unique_name.guard():
        try:
            limits = read_limits(args.limits)
            data = read_data(args, args.seed, count=HELD_OUT)
            paddle.seed(args.seed)
            training = Training(
                DBNet(bias=args.bias),
                DBLoss(main_loss_type=args.loss, bce_weight=args.bce_weight),
                Pages(args.seed, args.steps * BATCH, data.draw, args.text_balance),
                **{name: vars(args)[name] for name in SETTINGS},
                data=describe_data(args),
            )
            if args.resume:
                training.load(checkpoint)
            args.out.mkdir(parents=True, exist_ok=True)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        try:
            training.run(checkpoint=checkpoint)
        except OSError as error:  # of an image that cannot be read to its end
            sys.exit(f"step {len(training.history) + 1}: {error}")

    model = training.model
    write_model(training, args.out)
    if limits is None:
        limits = best_pair(search_and_draw(model, data.held_out, args.out))
        print("limits {:.2f} {:.2f}".format(*limits))
    (scores,) = score(model, data.test, limits, desc="test")
    print("precision {precision:.2f}\nrecall {recall:.2f}\nhmean {hmean:.2f}".format(**scores))
    draw_all(model, data, limits, args.loss, args.text_balance, args)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before or after the training, which handles Ctrl-C itself
        sys.exit(130)
