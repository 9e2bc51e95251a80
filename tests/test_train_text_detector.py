"""The training example: a few steps of it as a program, on what is drawn and on photographs."""

import io
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import paddle
import programs
import pytest
from label_files import SKIPPED, WORD, write_label_file
from paddle.utils import unique_name
from PIL import Image

from dbloss import DBLoss

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_text_detector.py"
PICTURES = ("photograph.png", "maps.png", "losses.png")
LOSSES = {"loss": 3.0, "loss_shrink_maps": 1.0, "loss_threshold_maps": 2.0}


def figures(stdout, label):
    """The numbers on the line of stdout that begins with the label."""
    (line,) = re.findall(rf"^{label}\b(.*)$", stdout, re.MULTILINE)
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


def assert_pictures(folder, *names):
    for name in names:
        with Image.open(folder / name) as picture:
            pixels = np.asarray(picture.convert("L"), np.float32)
        assert min(pixels.shape) > 400, name
        assert pixels.std() > 10, f"{name} is blank"


def assert_outputs(folder):
    assert_pictures(folder, *PICTURES)
    weights = paddle.load(str(folder / "model.pdparams"))
    assert len(weights) > 50
    assert all(np.isfinite(weight.numpy()).all() for weight in weights.values())
    return weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "made" / "by the example"
    done = programs.run(EXAMPLE, "--steps", 3, "--seed", 5, "--out", folder)
    assert done.returncode == 0, done.stderr
    return done, folder


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    return import_module(EXAMPLE.stem)


def test_writes_pictures_and_a_model_that_loads(finished, example):
    weights = assert_outputs(finished[1])
    missing, unexpected = example.DBNet().set_state_dict(weights)
    assert not missing and not unexpected


def test_prints_the_loss_and_its_parts(finished):
    total, *parts = figures(finished[0].stdout, "step 3")
    assert len(parts) == 3
    assert total == pytest.approx(sum(parts), abs=5e-6)


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.filterwarnings("ignore:When training, we now always track")  # Paddle's BatchNorm
def test_a_terminal_gets_a_bar_and_a_log_file_a_line_every_ten_steps(example, monkeypatch, capsys):
    monkeypatch.setattr(example.Training, "step", lambda self, _: self.history.append(LOSSES))
    for file, steps in ((_Terminal(), 3), (io.StringIO(), 25)):
        monkeypatch.setattr(sys, "stderr", file)
        pages = [[np.zeros(1)] for _ in range(steps * example.BATCH)]
        assert example.Training(example.DBNet(), None, pages).run(desc="seed 0")
        shown = file.getvalue()
        if steps == 3:
            assert re.search("seed 0: 100%.* 3/3 .*loss=3.00, shrink=1.00, threshold=2.00", shown)
    line = "seed 0 step {}: loss 3.000000 shrink 1.000000 threshold 2.000000\n"
    assert shown == "".join(map(line.format, (1, 10, 20)))
    assert not capsys.readouterr().out


def test_prints_hmean_with_its_precision_and_recall(finished):
    ((precision,), (recall,), (hmean,)) = (
        figures(finished[0].stdout, label) for label in ("precision", "recall", "hmean")
    )
    assert all(0 <= rate <= 1 for rate in (precision, recall, hmean))
    assert min(precision, recall) <= hmean <= max(precision, recall)


def run_here(example, monkeypatch, *options):
    """Run it in this process, with few pages held out."""
    monkeypatch.setattr(example, "HELD_OUT", 2)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, options)])
    example.main()


def test_another_seed_begins_with_other_pages_and_weights(example, monkeypatch, tmp_path):
    begun = []

    def begin(model, loss_fn, pages, **settings):
        begun.append((pages[0][0], model.stem[0].weight.numpy()))
        raise RuntimeError("training begins")

    monkeypatch.setattr(example, "Training", begin)
    for seed in (5, 6):
        with pytest.raises(RuntimeError, match="training begins"):
            run_here(example, monkeypatch, "--steps", 1, "--seed", seed, "--out", tmp_path)
    for one, other in zip(*begun):
        assert one.shape == other.shape and (one != other).any()


def test_ctrl_c_leaves_pictures_and_model_of_the_steps_done(tmp_path):
    options = ["--steps", 1000, "--out", tmp_path]
    done = programs.interrupted(EXAMPLE, *options, once="^step 1:")
    assert done.returncode == 0, done.stderr
    assert 1 <= int(re.search(r"^step (\d+):", done.stdout, re.MULTILINE)[1]) < 1000
    assert "Traceback" not in done.stderr
    assert_outputs(tmp_path)


STUCK = f"""
import sys, time
sys.path.insert(0, {str(EXAMPLE.parent)!r})
from train_text_detector import DBNet, Pages, Training

def draw(rng):
    print("drawing", flush=True)
    time.sleep(1000)

Training(DBNet(), None, Pages(0, 8, draw)).run()
"""


def test_a_second_ctrl_c_ends_a_training_that_is_stuck():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with programs.started("-c", STUCK, **pipes) as program:
        assert program.stdout.readline() == "drawing\n"
        program.send_signal(signal.SIGINT)
        assert any("Ctrl-C again ends at once" in line for line in program.stderr)
        assert program.poll() is None
        program.send_signal(signal.SIGINT)
        assert program.wait() == -signal.SIGINT


@pytest.mark.filterwarnings("ignore:When training, we now always track")  # Paddle's BatchNorm
def test_what_is_wrong_with_a_page_ends_the_training_with_its_message(
    example, monkeypatch, tmp_path
):
    def draw(rng):
        raise FileNotFoundError("img_7.jpg: no such image")

    monkeypatch.setattr(example, "render_page", draw)
    monkeypatch.setattr(example, "read_data", lambda *_, **__: example.Data(draw, draw, [], []))
    with pytest.raises(SystemExit) as ended:
        run_here(example, monkeypatch, "--steps", 2, "--out", tmp_path)
    assert ended.value.code == "step 1: img_7.jpg: no such image"


def test_batches_are_those_of_paddles_loader(example):
    pages = example.Pages(3, 7)
    sampler = paddle.io.BatchSampler(pages, batch_size=3)
    theirs = paddle.io.DataLoader(pages, batch_sampler=sampler)
    for batch, expected in zip(example.batches(pages, sampler), theirs, strict=True):
        assert [each.dtype for each in batch] == [each.dtype for each in expected]
        for one, other in zip(batch, expected, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("loss", ["DiceLoss", "BCELoss"])
def test_maps_and_losses_are_drawn_by_the_library(
    finished, example, monkeypatch, capsys, tmp_path, loss
):
    for name in ("plot_batch", "plot_history"):
        monkeypatch.setattr(example, name, Mock(wraps=getattr(example, name)))
    run_here(example, monkeypatch, "--steps", 3, "--seed", 5, "--loss", loss, "--out", tmp_path)
    assert_outputs(tmp_path)
    if loss == "DiceLoss":  # the same seed gives the same run
        first, folder = finished
        losses = figures(capsys.readouterr().out, "step 3")
        assert losses == figures(first.stdout, "step 3")
        for name in PICTURES:
            assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name

    (history,) = example.plot_history.call_args.args
    assert [len(losses) for losses in history] == [4, 4, 4]
    (predicts, labels), options = example.plot_batch.call_args
    pages = [example.render_page(np.random.default_rng([5, 1, i])) for i in range(8)]
    fullest = max(range(8), key=lambda i: len(pages[i].texts))
    assert predicts["maps"].shape == [8, 3, 160, 160]
    assert [label.shape for label in labels] == [[8, 3, 160, 160]] + 4 * [[8, 160, 160]]
    assert options["index"] == fullest and options["main_loss_type"] == loss
    np.testing.assert_array_equal(options["image"], pages[fullest].image)
    # The boxes of that page are where its labels have text.
    for word in pages[fullest].texts:
        x, y = word.mean(axis=0).round().astype(int)
        assert labels[3][fullest, y, x] == 1


def test_help_names_every_option(example, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run_here(example, monkeypatch, "--help")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    options = "--steps --loss --bce-weight --text-balance --bias --seed --labels --test-labels"
    for option in [*options.split(), "--images", "--limits", "--resume", "--out", "--help"]:
        assert option in said


@pytest.mark.parametrize(
    "options, said",
    [
        (["--epochs", "3"], "--epochs"),
        (["--steps", "many"], "--steps"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--seed", "-1"], "--seed and --text-balance at least 0"),
        (["--loss", "diceloss"], "OHEMDiceLoss"),
        (["--text-balance", "-1"], "--text-balance at least 0"),
        (["--bce-weight", "-1"], "bce_weight: expected a finite number at least 0"),
        (["--limits", "0.3"], "--limits: expected two numbers or best, got 0.3"),
        (["--limits", "0.3", "high"], "got 0.3 high"),
        (["--labels", "no.txt"], "--labels and --test-labels go together"),
        (["--labels", "no.txt", "--test-labels", "no.txt"], "no.txt"),
        (["--resume", "--out", "runs/none"], "runs/none/checkpoint.pdparams to go on from. Give"),
        (["--out", str(EXAMPLE)], "exists"),
    ],
)
def test_a_bad_option_exits_with_2(example, monkeypatch, capsys, options, said):
    with pytest.raises(SystemExit) as ended:
        run_here(example, monkeypatch, *options)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_words_lie_where_their_corners_say(example):
    inside, outside = [], []
    for seed in range(20):
        image, words, ignored = example.render_page(np.random.default_rng(seed), fill=1, clutter=0)
        assert image.shape == (160, 160, 3) and image.dtype == np.uint8
        assert ignored == [False] * len(words)
        assert all(((word >= 0) & (word < 160)).all() for word in words)
        strokes = np.abs(np.diff(cv2.blur(image.mean(axis=-1), (3, 3)), axis=1, append=0))
        mask = np.zeros(strokes.shape, np.uint8)
        for word in words:
            cv2.fillConvexPoly(mask, np.int32(word), 1)
        inside.append(strokes[:, :-1][mask[:, :-1] == 1])
        outside.append(strokes[:, :-1][mask[:, :-1] == 0])
    # 7.4 times when written; 2.7 times with the corners moved by 10 pixels.
    assert np.concatenate(inside).mean() > 4 * np.concatenate(outside).mean()


def test_photographs_are_trained_on_and_drawn(example, monkeypatch, capsys, tmp_path):
    labels = write_label_file(tmp_path / "train.txt", count=3)
    test = write_label_file(tmp_path / "test.txt", count=2)
    found = [WORD + np.float32([150, 10]), WORD]
    monkeypatch.setattr(example, "boxes_on", lambda image, probability, limits: found)
    options = ["--labels", labels, "--test-labels", test, "--steps", 1, "--limits", "best"]
    loss = ["--loss", "DiceBCELoss", "--bce-weight", 1, "--text-balance", 0.5, "--bias", -4]
    run_here(example, monkeypatch, *options, *loss, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert figures(said, "limits") == [0.3, 0.6]  # nothing is found at any: PaddleOCR's
    assert [figures(said, rate) for rate in ("precision", "recall")] == [[0.5], [1]]
    assert sorted(path.name for path in (tmp_path / "out/photographs").iterdir()) == [
        "0-test_0.png",
        "1-test_1.png",
    ]
    with Image.open(tmp_path / "out/photographs/1-test_1.png") as picture:
        assert picture.height > 288  # by the legend
        for corners, colour in ((found[0], (213, 94, 0)), (SKIPPED, (153, 153, 153))):
            assert picture.getpixel(tuple(corners[0])) == colour
    assert_pictures(tmp_path / "out", "maps.png", "losses.png", "limits.png")


def test_true_boxes_have_a_colour_of_their_own(example, monkeypatch, tmp_path):
    monkeypatch.setattr(example, "predict", lambda model, image: [None])
    monkeypatch.setattr(example, "boxes_on", lambda *arguments: [WORD + np.float32(20)])
    pages = example.photographed(*2 * [write_label_file(tmp_path / "a.txt", count=2)]).test
    example.draw_photographs(None, pages, None, tmp_path / "drawn")
    with Image.open(tmp_path / "drawn" / "0-a_0.png") as picture:
        assert picture.getpixel(tuple(WORD[0])) == (0, 158, 115)


def test_every_tenth_photograph_is_held_out(example, tmp_path):
    file = write_label_file(tmp_path / "a.txt", count=21)
    data = example.photographed(file, write_label_file(tmp_path / "test.txt", count=2))
    names = [label.image.name for label in data.held_out.labels]
    assert names == ["a_0.png", "a_10.png", "a_20.png"]
    trained = [label.image.name for label in data.draw.args[0].labels]
    assert len(trained) == 18 and not {*trained} & {*names}
    assert data.draw_held_out.args[0] is data.held_out
    assert len(data.test) == 2


@pytest.mark.filterwarnings("ignore:When training, we now always track")  # Paddle's BatchNorm
def test_a_training_that_was_cut_off_goes_on_as_if_it_had_not_been(example, tmp_path):
    pages = example.Pages(4, 3 * example.BATCH, text_balance=0.5)

    def train(*stops):
        for stop in stops:
            with unique_name.guard():
                paddle.seed(0)
                training = example.Training(example.DBNet(), DBLoss(), pages, seed=4)
                if stop > stops[0]:
                    training.load(tmp_path / "checkpoint.pdparams")
                assert training.run(stop, tmp_path / "checkpoint.pdparams")
        return training

    whole, pieces = train(3), train(1, 3)
    assert whole.history == pieces.history and len(whole.history) == 3
    for one, other in zip(whole.model.state_dict().values(), pieces.model.state_dict().values()):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_a_checkpoint_says_how_it_differs(example, monkeypatch, capsys, tmp_path):
    """In its settings, or in the content of a label file of the same name."""
    files = [tmp_path / "a.txt", tmp_path / "other" / "a.txt"]
    files[1].parent.mkdir()
    for file, count in zip(files, (2, 3)):
        write_label_file(file, count)
    monkeypatch.setattr(example.Training, "run", lambda self, checkpoint: self.save(checkpoint))
    monkeypatch.setattr(example, "plot_history", Mock(side_effect=RuntimeError("trained")))
    out = tmp_path / "out"
    for resume, labels, further, differing in (
        ([], 0, [], []),
        (["--resume"], 0, [], []),
        (["--resume"], 0, ["--bias", -4, "--seed", 4], ["bias: 0 there, -4.0", "seed: 0 there, 4"]),
        (["--resume"], 1, [], ["data: a.txt (CRC-32 "]),
    ):
        words = ["--labels", files[labels], "--test-labels", files[0], "--steps", 1, *further]
        with pytest.raises(SystemExit if differing else RuntimeError):
            run_here(example, monkeypatch, *words, *resume, "--out", out)
        lines = re.findall("^  (.*) here$", capsys.readouterr().err, re.MULTILINE)
        assert len(lines) == len(differing)
        assert all(line.startswith(said) for line, said in zip(lines, differing))


def test_what_is_no_checkpoint_is_named(example, monkeypatch, capsys, tmp_path):
    file = tmp_path / "checkpoint.pdparams"
    for content, said in ((b"", "expected a checkpoint of this program"), (None, "there is no")):
        file.unlink(missing_ok=True) if content is None else file.write_bytes(content)
        with pytest.raises(SystemExit):
            run_here(example, monkeypatch, "--steps", 1, "--out", tmp_path, "--resume")
        assert said in capsys.readouterr().err
    paddle.save({"weight": paddle.zeros([1])}, str(file))  # a model
    with pytest.raises(SystemExit):
        run_here(example, monkeypatch, "--steps", 1, "--out", tmp_path, "--resume")
    assert "expected a checkpoint of this program" in capsys.readouterr().err


def test_an_image_is_reduced_to_what_the_network_takes(example):
    sizes = []

    class Model:
        def eval(self):
            pass

        def __call__(self, images):
            sizes.append(images.shape[2:])
            return {"maps": paddle.zeros([1, 3, *images.shape[2:]])}

    for height, width in ((720, 1280), (160, 160), (10, 500), (2000, 900)):
        maps = example.predict(Model(), np.zeros((height, width, 3), np.uint8))
        assert list(maps.shape[1:]) == sizes[-1]
    assert sizes == [[544, 960], [160, 160], [32, 512], [960, 448]]


def test_boxes_are_scored_in_pixels_of_the_image(example, monkeypatch):
    """A map of half the image's size, with the first word but not the second."""
    probability = np.zeros((144, 176), np.float32)
    probability[26:35, 36:75] = 0.5  # the word, halved and shrunk by 40 * 100 * 0.84 / 280 / 2
    monkeypatch.setattr(example, "predict", lambda model, image: probability[None])
    page = example.Page(np.zeros((288, 352, 3), np.uint8), [WORD, SKIPPED], [False, False])
    low, high = example.score(None, [page, page], example.Pair(0.3, 0.4), example.Pair(0.3, 0.6))
    assert low == {"precision": 1, "recall": 0.5, "hmean": pytest.approx(2 / 3)}
    assert high["hmean"] == 0
    limits = example.search(None, [page, page])
    assert limits.best.thresh == 0.1 and limits.best.hmean == pytest.approx(2 / 3)


def test_a_log_file_is_told_of_the_pages_that_are_looked_at(example, monkeypatch, capsys):
    probability = np.zeros((1, 32, 32), np.float32)
    monkeypatch.setattr(example, "predict", lambda model, image: probability)
    pages = 20 * [example.Page(np.zeros((32, 32, 3), np.uint8), [], [])]
    example.search(None, pages, desc="limits")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["limits: page 1 of 20", "limits: page 2 of 20"]
    assert len(lines) == 11 and lines[-1] == "limits: page 20 of 20"
    example.score(None, pages[:1], example.PADDLEOCR, desc="test")
    assert capsys.readouterr().err == "test: page 1 of 1\n"


def test_a_bias_starts_the_probability_map_as_background(example):
    page = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    paddle.seed(0)
    maps = [example.predict(example.DBNet(bias=bias), page) for bias in (0, -4)]
    assert [np.median(p) for p, _, _ in maps] == pytest.approx([0.5, 0.018], rel=0.2)
    assert np.median(maps[1][1]) == pytest.approx(0.5, rel=0.2)


@pytest.mark.filterwarnings("ignore:When training, we now always track")  # Paddle's BatchNorm
@pytest.mark.parametrize(("bias", "said"), [(0, 1), (-4, 0)])
def test_a_mined_loss_says_that_a_map_does_not_start_as_background(example, bias, said, caplog):
    paddle.seed(0)
    training = example.Training(
        example.DBNet(bias=bias), DBLoss(main_loss_type="OHEMDiceLoss"), example.Pages(0, 8)
    )
    training.run()
    told = [record for record in caplog.records if record.name == "dbloss"]
    assert len(told) == said
    assert all("starts as background" in record.getMessage() for record in told)
