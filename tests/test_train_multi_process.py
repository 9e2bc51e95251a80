"""The example of several processes: two of them train as one does."""

import csv
import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import paddle
import programs
import pytest
from paddle import nn

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_multi_process.py"
SHORT = ("--steps", 3, "--batch", 4, "--dtype", "float64", "--seed", 3)


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    return import_module(EXAMPLE.stem)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    done = programs.run(EXAMPLE, *SHORT, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def two(one, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    others = one[0] / "losses.csv"
    options = ["--processes", 2, *SHORT, "--out", folder, "--compare", others]
    done = programs.run(EXAMPLE, *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def losses(folder):
    with (folder / "losses.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head == ["loss", "loss_shrink_maps", "loss_threshold_maps", "loss_binary_maps"]
    return np.float64(rows)


def test_two_processes_have_the_losses_of_one(one, two):
    ours, theirs = losses(one[0]), losses(two[0])
    assert ours.shape == theirs.shape == (3, 4)
    np.testing.assert_allclose(theirs, ours, rtol=2e-7)
    assert ours[0, 0] != ours[2, 0]
    np.testing.assert_allclose(ours[:, 0], ours[:, 1:].sum(axis=1), rtol=1e-6)


def test_two_processes_have_the_weights_of_one(one, two):
    ours, theirs = (paddle.load(str(folder / "model.pdparams")) for folder, _ in (one, two))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        np.testing.assert_allclose(theirs[name].numpy(), weight.numpy(), rtol=1e-6, atol=1e-7)


def test_the_first_process_alone_prints_and_writes(one, two):
    folder, done = two
    of_one, of_two = one[1].splitlines(), done.stdout.splitlines()
    assert re.match(r"step 3: loss \d\.\d{6} shrink \S+ threshold \S+ binary \S+$", of_one[0])
    assert "3 steps do not find a word yet" in of_one[4]
    *same, compared, last = of_two
    assert same == of_one[:-1]
    (apart,) = re.findall("^3 steps compared: the losses differ by at most (.*) of", compared)
    assert float(apart) < 2e-7
    assert last == f"losses and model are in {folder}"
    assert {path.name for path in folder.iterdir()} == {"losses.csv", "model.pdparams"}
    told = [line for line in done.stderr.splitlines() if "Compiling the loops" not in line]
    assert told == [f"score: page {page} of 100" for page in (1, *range(10, 101, 10))]


def test_no_batch_norm_is_left(example):
    model = example.DBNet()
    before = [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    assert before and example.without_batch_norm(model) is model
    after = [layer for layer in model.sublayers() if isinstance(layer, nn.GroupNorm)]
    assert [x.weight.shape for x in after] == [x.weight.shape for x in before]
    assert not any(isinstance(layer, nn.BatchNorm2D) for layer in model.sublayers())
    # A page's maps do not depend on the other pages of its batch.
    pages = paddle.rand([2, 3, 64, 64])
    both, single = model(pages)["maps"], model(pages[:1])["maps"]
    np.testing.assert_allclose(both[:1].numpy(), single.numpy(), atol=1e-5)


@pytest.mark.parametrize("option, expected", [([], True), (["--no-global-batch"], False)])
def test_the_loss_is_of_all_pages_unless_told(example, monkeypatch, tmp_path, option, expected):
    def train(model, loss_fn, pages, batch):
        assert loss_fn.global_batch is expected and len(pages) == 7 * batch == 35
        raise RuntimeError("training begins")

    monkeypatch.setattr(example, "train", train)
    arguments = ["--steps", "7", "--batch", "5", "--out", str(tmp_path), *option]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
    with pytest.raises(RuntimeError, match="training begins"):
        example.main()


def test_compare_takes_the_step_furthest_apart(example):
    said = example.compare(np.float32([4, 2, 1, 7]), np.float32([4, 2.5, 1.1]))
    assert said == "3 steps compared: the losses differ by at most 2.0e-01 of the loss"


def test_ctrl_c_ends_it_without_a_traceback():
    options = ["--steps", 1000, "--batch", 1]
    done = programs.interrupted(EXAMPLE, *options, once="step 10:", stream="stdout")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_help_names_every_option(example, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--help"])
    with pytest.raises(SystemExit) as ended:
        example.main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for option in ("steps", "batch", "loss", "no-global-batch", "dtype", "seed", "out", "compare"):
        assert f"--{option}" in said


@pytest.mark.parametrize(
    "options, said",
    [
        (["--steps", "0"], "--steps and --processes must be at least 1"),
        (["--processes", "0"], "--steps and --processes must be at least 1"),
        (["--processes", "2"], "Paddle's launcher has started them"),
        (["--seed", "-1"], "--seed at least 0"),
        (["--batch", "3"], "--batch must be a multiple of the number of processes, 2"),
        (["--batch", "0"], "--batch must be a multiple of the number of processes, 2"),
        (["--loss", "Dice"], "OHEMDiceLoss"),
        (["--dtype", "float16"], "float64"),
        (["--out", __file__], "exists"),
        (["--compare", "missing.csv"], "missing.csv"),
    ],
)
def test_a_bad_option_is_refused(example, monkeypatch, tmp_path, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(example.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *options])
    with pytest.raises(SystemExit) as ended:
        example.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
