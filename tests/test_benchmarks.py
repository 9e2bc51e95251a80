"""The baselines of the benchmark compute what PaddleOCR computes."""

import csv
import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import DATA

from dbloss.boxes import find_boxes
from dbloss.targets import Targets, make_targets

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the benchmarks are not packaged")
PAGES = json.loads((DATA / "paddleocr_targets.json").read_text())
BOXES = json.loads((DATA / "paddleocr_boxes.json").read_text())


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PAGES)
def test_plain_targets_against_golden_maps(name):
    page, golden = PAGES[name], np.load(DATA / "paddleocr_targets.npz")
    polygons = [np.array(polygon, np.float32) for polygon in page["polygons"]]
    size = page["height"], page["width"]
    maps = load("plain_targets").make_targets(polygons, page["ignored"], *size, **page["kwargs"])
    for field, got in zip(Targets._fields, maps):
        np.testing.assert_allclose(got, golden[f"{name}.{field}"], rtol=0, atol=1e-6, err_msg=field)


SCORES = json.loads((DATA / "paddleocr_score.json").read_text())


@pytest.mark.parametrize("image", SCORES, ids=lambda image: image["name"])
def test_plain_score_against_golden_counts(image):
    got = load("plain_score").match(image["found"], image["truth"], image["ignored"])
    assert got == (image["detMatched"], image["detCare"], image["gtCare"])


def quads(rng, count):
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    boxes = corners * rng.uniform((20, 6), (80, 20), (count, 1, 2))
    return boxes + rng.uniform(-5, 5, (count, 4, 2)) + rng.uniform(-40, 360, (count, 1, 2))


def rings(rng, count):
    for points in rng.integers(3, 101, count):
        angle = np.sort(rng.uniform(0, 2 * np.pi, points))
        radius = rng.uniform(20, 60, (points, 1))
        centre = rng.uniform(0, 320, 2)
        yield np.column_stack((np.cos(angle), np.sin(angle))) * radius + centre


def tangles(rng, count):
    for points in rng.integers(3, 9, count):
        yield rng.uniform(-60, 380, (points, 2))


@pytest.mark.parametrize(
    ("draw", "dtype"), [(quads, np.float32), (rings, np.float64), (tangles, np.float32)]
)
def test_make_targets_draws_the_maps_of_the_plain_steps(draw, dtype):
    rng = np.random.default_rng(0)
    plain_targets = load("plain_targets").make_targets
    wrong, pixels = np.zeros(3), 0
    for _ in range(10):
        polygons = [np.asarray(polygon, dtype) for polygon in draw(rng, 8)]
        ignored = (rng.random(8) < 0.15).tolist()
        got = make_targets(polygons, ignored, 320, 320)
        expected = Targets(*plain_targets(polygons, ignored, 320, 320))
        counts = expected.threshold_mask == 1
        np.testing.assert_allclose(
            got.threshold_map[counts], expected.threshold_map[counts], rtol=0, atol=2e-3
        )
        wrong += [(a != b).sum() for a, b in zip(got[1:], expected[1:])]
        pixels += counts.size
    assert (wrong <= pixels / 5000).all()


@pytest.mark.parametrize("kind", {json.dumps(case["kwargs"]): None for case in BOXES})
def test_plain_boxes_against_golden_boxes(kind):
    find, golden = load("plain_boxes").find_boxes, np.load(DATA / "paddleocr_boxes.npz")
    for case in BOXES:
        if json.dumps(case["kwargs"]) == kind:
            probability = golden[case["map"]].astype(np.float32) / np.float32(255)
            size = {"height": case["height"], "width": case["width"]}
            boxes, scores = find(probability, **size, **case["kwargs"])
            assert [box.tolist() for box in boxes] == case["boxes"]
            np.testing.assert_allclose(scores, case["scores"], rtol=1e-9)


def clouds(rng, height, width):
    noise = cv2.GaussianBlur(rng.random((height, width)), (0, 0), rng.uniform(0.5, 4))
    return (noise - noise.min()) / max(np.ptp(noise), 1e-6)


def words(rng, height, width):
    canvas = np.zeros((height, width))
    for _ in range(rng.integers(1, 12)):
        centre, size = rng.uniform(-10, 130, 2), rng.uniform(1, 25, 2)
        box = cv2.boxPoints((centre.tolist(), size.tolist(), rng.uniform(-90, 90)))
        cv2.fillPoly(canvas, [box.astype(np.int32)], rng.uniform(0.2, 1))
    return canvas


@pytest.mark.parametrize("draw", [clouds, words])
@pytest.mark.parametrize("box_type", ["quad", "poly"])
def test_find_boxes_finds_those_of_the_plain_steps_in_any_map(draw, box_type):
    rng = np.random.default_rng(0)
    find, count = load("plain_boxes").find_boxes, 0
    for _ in range(60):
        shape = rng.integers(1, 120, 2).tolist()
        probability = draw(rng, *shape).astype(rng.choice(["float32", "float64"]))
        settings = {
            "thresh": rng.uniform(0, 0.9),
            "box_thresh": rng.uniform(0, 0.8),
            "unclip_ratio": rng.choice([0, 0.3, 1.5, 3, 10]),
            "max_candidates": rng.choice([3, 50, 1000]),
            "use_dilation": rng.random() < 0.3,
            "score_mode": rng.choice(["fast", "slow"]),
            "box_type": box_type,
            # Ties between two pixels are many at half the size.
            "height": rng.choice([shape[0], (shape[0] + 1) // 2, 720.0]),
            "width": (shape[1] + 1) // 2,
        }
        boxes, scores = find(probability, **settings)
        got = find_boxes(probability, **settings)
        assert [box.tolist() for box in got.polygons] == [box.tolist() for box in boxes]
        np.testing.assert_array_equal(got.scores, scores)
        count += len(boxes)
    assert count > 20


def test_a_run_prints_what_it_measured(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    loss = {"images": 8, "height": 640, "width": 640, "main_loss_type": "DiceLoss"}
    page = {"images": 1, "height": "", "width": "", "main_loss_type": "100 boxes"}
    rows = [
        loss | {"provider": "dbloss fused", "what": "whole", "unit": "ms"},
        page | {"provider": "pair by pair", "what": "match", "unit": "ms"},
    ]
    numbers = [
        {"median": "22.1", "q20": "21", "q80": "23.5"},
        {"median": "7", "q20": "6", "q80": "9"},
    ]
    assert load("run").table([row | each for row, each in zip(rows, numbers)]).splitlines() == [
        "what   case                     provider      median  20 to 80 %  unit",
        "whole  DiceLoss, 8 x 640 x 640  dbloss fused  22.1    21 to 23.5  ms",
        "match  100 boxes, 1             pair by pair  7       6 to 9      ms",
    ]


def test_a_run_of_label_maps_does_not_hide_the_losses_from_the_plot(tmp_path):
    fields = ("date", "commit", "device", "provider", "what")
    rows = [
        ("2026-01-01", "a", "cpu", "dbloss fused", "whole"),
        ("2026-01-02", "b", "cpu", "dbloss fused", "forward"),
        ("2026-01-02", "b", "cpu", "dbloss fused", "whole"),
        ("2026-01-02", "b", "cpu", "dbloss", "label maps"),
        ("2026-01-03", "c", "cpu", "dbloss", "label maps"),
    ]
    with (tmp_path / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([fields, *rows])
    steps = load("plot").newest(tmp_path / "results.csv")
    assert steps == [dict(zip(fields, rows[2]))]
