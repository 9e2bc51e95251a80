"""Train a small DBNet on rendered words with DBLoss, then find the words on a photographed page.

    pip install ".[examples]"
    python examples/train_text_detector.py                   # about 3 minutes on 2 CPU cores
    python examples/train_text_detector.py --steps 300 --loss BCELoss --seed 1 --out runs/bce

Pages of words are drawn while the detector learns from them. The corners of the words are known,
so `make_targets` can turn them into label maps. Precision, recall and hmean on pages that were
not trained on are printed, and the output folder then holds:

    photograph.png   `skimage.data.page()` with a box around each word that was found
    maps.png         for a page that was not trained on the predicted maps, their targets, the loss
                     of each pixel and the hard negatives
    losses.png       the loss and its three parts, step by step
    model.pdparams   the weights: `model.set_state_dict(paddle.load("model.pdparams"))`

Ctrl-C ends the training; all this is then printed and written for the steps done.
The training step, the part to copy into a loop of your own, is in `train`.
"""

from __future__ import annotations

import argparse
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import skimage.data
from matplotlib import get_data_path
from paddle import nn
from photographs import Page
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from dbloss import DBLoss, differentiable_binarization
from dbloss.boxes import find_boxes
from dbloss.plot import plot_batch, plot_history
from dbloss.score import Hmean
from dbloss.targets import make_targets

SIZE = 160  # of a rendered page, in pixels
BATCH = 8
HELD_OUT = 100  # pages
LONGEST = 960  # side of an image that words are looked for in
PADDLEOCR = (0.3, 0.6)  # its limits: above which a pixel is text, from which a box is kept
LIMITS = [(t / 10, b / 20) for t in range(2, 7) for b in range(6, 17)]
PHOTO_SCALE = 1.75  # brings the photograph's letters to the sizes trained on
LETTERS = list("eeeeetttaaaooiinnsshhrrddlcumwfgypbvkjxqz")  # common letters more often
FONTS = [
    str(path)
    for path in sorted(Path(get_data_path(), "fonts/ttf").glob("*.ttf"))
    if path.stem.startswith(("DejaVuSans", "DejaVuSerif", "STIXGeneral"))
    and not path.stem.endswith("Display")  # these hold a few symbols only
]

Limits = tuple[float, float]
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


# ---- 2. The detector -------------------------------------------------------------------------


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2D(inputs, outputs, 3, stride, 1, bias_attr=False),
        nn.BatchNorm2D(outputs),
        nn.ReLU(),
    )


def branch(inputs: int) -> nn.Sequential:
    """Turn features at a quarter of the page's size into one map of its full size, in [0, 1]."""
    return nn.Sequential(
        conv(inputs, inputs // 2),
        nn.Conv2DTranspose(inputs // 2, inputs // 4, 2, 2),
        nn.BatchNorm2D(inputs // 4),
        nn.ReLU(),
        nn.Conv2DTranspose(inputs // 4, 1, 2, 2),
        nn.Sigmoid(),
    )


class DBNet(nn.Layer):
    """Backbone, feature pyramid and DB head. The page's sides are multiples of 32."""

    def __init__(self, widths: tuple[int, ...] = (16, 24, 48, 64, 96), features: int = 32) -> None:
        super().__init__()
        self.stem = conv(3, widths[0], stride=2)
        self.stages = nn.LayerList(
            nn.Sequential(conv(a, b, stride=2), conv(b, b)) for a, b in zip(widths, widths[1:])
        )
        self.laterals = nn.LayerList(nn.Conv2D(width, features, 1) for width in widths[1:])
        self.probability, self.threshold = branch(features), branch(features)

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
    """A detector on its way: the model, the optimizer, and the losses of each step done.

    All of it goes into a checkpoint, so that a training which was ended goes on where it stood.
    """

    def __init__(self, loss_fn: nn.Layer, pages: Pages, **settings: Any) -> None:
        self.loss_fn, self.pages, self.settings = loss_fn, pages, settings
        self.steps = len(pages) // BATCH
        self.model = DBNet()
        self.schedule = paddle.optimizer.lr.CosineAnnealingDecay(5e-3, T_max=self.steps)
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
        losses["loss"].backward()  # the sum of the parts, which are there to be watched
        self.optimizer.step()
        self.optimizer.clear_grad()
        self.schedule.step()
        self.history.append({name: float(loss) for name, loss in losses.items()})

    def run(self, until: int | None = None, **look: Any) -> bool:
        """Train up to a step, the last by default, or to Ctrl-C; tell whether it came so far.

        `look` is passed on to the progress bar of tqdm.
        """
        done, until = len(self.history), until or self.steps
        rest = paddle.io.Subset(self.pages, range(done * BATCH, until * BATCH))
        loader = paddle.io.DataLoader(rest, batch_size=BATCH)
        stop = threading.Event()  # Ctrl-C only sets it, so that no step is cut in half
        usual = signal.signal(signal.SIGINT, lambda *_: stop.set())
        self.model.train()
        try:
            with tqdm(total=self.steps, initial=done, unit="step", **look) as bar:
                for batch in loader:
                    self.step(batch)
                    losses = self.history[-1].items()
                    bar.set_postfix({short(k): f"{v:.2f}" for k, v in losses}, refresh=False)
                    bar.update()
                    if stop.is_set():
                        break
        finally:
            signal.signal(signal.SIGINT, usual)
        return len(self.history) >= until

    def save(self, path: Path) -> None:
        """Write a checkpoint. The one before it stays until it is whole."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "settings": self.settings,
        }
        paddle.save(state, f"{path}.new")
        Path(f"{path}.new").replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same settings."""
        state = paddle.load(str(path))
        if state["settings"] != self.settings:
            raise ValueError(f"{path} is of {state['settings']}, and not of {self.settings}")
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


def score_limits(
    model: nn.Layer, pages: Iterable[Page], limits: Sequence[Limits]
) -> dict[Limits, dict[str, float]]:
    """Return precision, recall and hmean at each of the limits (thresh, box_thresh)."""
    metrics = {pair: Hmean() for pair in limits}
    for page in pages:
        probability = predict(model, page.image)[0]
        height, width = page.image.shape[:2]
        for thresh in dict.fromkeys(thresh for thresh, _ in limits):
            boxes = find_boxes(
                probability, thresh=thresh, box_thresh=0, height=height, width=width
            )
            for pair, metric in metrics.items():
                if pair[0] == thresh:
                    kept = [p for p, s in zip(boxes.polygons, boxes.scores) if s >= pair[1]]
                    metric.update(kept, page.texts, page.ignored)
    return {pair: metric.accumulate() for pair, metric in metrics.items()}


# ---- 5. The photograph -----------------------------------------------------------------------


def with_boxes(image: np.ndarray, boxes: np.ndarray, zoom: int = 4) -> np.ndarray:
    """Return the image, enlarged, with the boxes drawn on it."""
    image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    return cv2.polylines(image, list(np.int32(boxes * zoom)), True, (213, 94, 0), 3, cv2.LINE_AA)


def draw_photograph(model: nn.Layer, path: Path) -> int:
    """Draw the boxes found on the photographed page; return how many there are."""
    image = np.stack([skimage.data.page()] * 3, axis=-1)
    size = np.array(image.shape[1::-1])
    fitting = np.int32((size * PHOTO_SCALE / 32).round() * 32)
    enlarged = cv2.resize(image, fitting.tolist(), interpolation=cv2.INTER_CUBIC)
    boxes = find_boxes(predict(model, enlarged)[0]) * np.float32(size / fitting)
    Image.fromarray(with_boxes(image, boxes)).save(path)
    return len(boxes)


# ---- 6. All of it ----------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=700, help=f"training steps of {BATCH} pages")
    parser.add_argument("--loss", default="DiceLoss", help="main_loss_type of DBLoss, as BCELoss")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same run")
    parser.add_argument("--out", type=Path, default="runs/text_detector", help="output folder")
    args = parser.parse_args()
    if args.steps < 1 or args.seed < 0:
        parser.error("--steps must be at least 1 and --seed at least 0")
    try:
        loss_fn = DBLoss(main_loss_type=args.loss)
        args.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    warnings.filterwarnings("ignore", "When training, we now always track")  # Paddle's BatchNorm

    paddle.seed(args.seed)
    model = DBNet()
    history = train(model, loss_fn, Pages(args.seed, args.steps * BATCH))
    paddle.save(model.state_dict(), str(args.out / "model.pdparams"))
    print(f"step {len(history)}:", *(f"{short(k)} {v:.6f}" for k, v in history[-1].items()))

    held_out = [render_page(np.random.default_rng([args.seed, 1, i])) for i in range(HELD_OUT)]
    print("precision {:.2f}\nrecall {:.2f}\nhmean {:.2f}".format(*evaluate(model, held_out)))

    plot_history(history).savefig(args.out / "losses.png")
    batch = held_out[:BATCH]
    fullest = max(range(len(batch)), key=lambda i: len(batch[i][1]))
    figure = plot_batch(
        {"maps": paddle.to_tensor(np.stack([predict(model, image) for image, _ in batch]))},
        [paddle.to_tensor(np.stack(part)) for part in zip(*(to_sample(*page) for page in batch))],
        image=batch[fullest][0],
        index=fullest,
        # DiceLoss mines nothing; None draws what mining would choose.
        main_loss_type=None if args.loss == "DiceLoss" else args.loss,
    )
    figure.savefig(args.out / "maps.png")
    words = draw_photograph(model, args.out / "photograph.png")
    print(f"{words} boxes on the photograph; pictures and model are in {args.out}")


if __name__ == "__main__":
    main()
