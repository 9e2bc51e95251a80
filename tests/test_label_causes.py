"""Causes that most texts of a page or a file share, on drawn pages with text in known places."""

import json
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from dbloss.labels import check_labels

SIZE = (240, 360)  # height and width
PAGES = 20


def draw_pages(folder, count=PAGES):
    """Write pages of noise with words on them; return the outlines of each."""
    rng = np.random.default_rng(3)
    height, width = SIZE
    pages = []
    for k in range(count):
        image = rng.normal(128, 6, (height, width)).clip(0, 255).astype(np.uint8)
        cells = [(x, y) for x in range(4, width - 80, 88) for y in range(4, height - 28, 34)]
        words = []
        for x, y in (cells[i] for i in rng.permutation(len(cells))[:9]):
            left, top = x + rng.integers(18), y + rng.integers(10)
            for letter in range(left, left + 65, 13):
                corners = (int(letter), int(top)), (int(letter) + 9, int(top) + 18)
                cv2.rectangle(image, *corners, 255, 2)
            words.append([[left - 2, top - 2], [left + 63, top - 2], [left + 63, top + 20]])
            words[-1].append([left - 2, top + 20])
        pages.append(np.array(words, float))
        cv2.imwrite(str(folder / f"{k}.png"), image)
    return pages


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def pages(folder):
    return draw_pages(folder)


def lines(pages, names=None):
    for k, words in enumerate(pages):
        entries = [{"transcription": "Words", "points": points.tolist()} for points in words]
        yield f"{names[k] if names else f'{k}.png'}\t{json.dumps(entries)}\n"


def check(folder, pages, names=None, **options):
    file = folder / "Label.txt"
    file.write_text("".join(lines(pages, names)))
    return check_labels(file, **{"size": SIZE} | options)


H, W = SIZE
MOVES = {
    "swapped": (lambda p: p[..., ::-1], "turned", "x and y swapped"),
    "mirrored": (lambda p: p * (-1, 1) + (W, 0), "turned", "x counted from the right"),
    "from the bottom": (lambda p: p * (1, -1) + (0, H), "turned", "y counted from the bottom"),
    "upside down": (lambda p: (W, H) - p, "turned", "upside down"),
    "a quarter": (lambda p: p[..., ::-1] * (1, -1) + (0, W), "turned", "by a quarter"),
    "half": (lambda p: p / 2, "scaled", "at x 2."),
    "twice": (lambda p: p * 2, "scaled", "at x 0.5."),
    "per cent": (lambda p: p * (100 / W, 100 / H), "scaled", "x times width / 100, y times"),
    "thousandths": (lambda p: p * (1000 / W, 1000 / H), "scaled", "width / 1000"),
    "normalised": (lambda p: p / (W, H), "normalised", "by the width"),
    "moved": (lambda p: p + np.array((24, -13)), "shifted", "by x -2"),
}


def test_sound_files_have_no_cause(folder, pages):
    report = check(folder, pages)
    assert report.counts() == {} and not report.remarks


@pytest.mark.parametrize("name", MOVES)
def test_a_cause_of_the_whole_file_is_said_once(folder, pages, name):
    move, kind, words = MOVES[name]
    report = check(folder, [move(page) for page in pages])
    assert report.counts() == {kind: 1}
    (problem,) = report.problems
    assert problem.line is problem.entry is None and problem.place.endswith("Label.txt")
    assert words in problem.advice and "Cut it off" not in problem.advice
    assert f"the whole file, {kind}: " in report.summary()
    assert check(folder, [move(page) for page in pages], ignore=[kind]).counts().get(kind) is None


def test_how_far_they_are_moved(folder, pages):
    (problem,) = check(folder, [MOVES["moved"][0](page) for page in pages]).problems
    x, y = map(int, re.search(r"moved by x ([-+]\d+), y ([-+]\d+) pixels", problem.advice).groups())
    assert abs(x + 24) <= 2 and abs(y - 13) <= 2


@pytest.mark.parametrize(
    ("step", "words"), [(1, "image of the line before it"), (7, "Do the lines name")]
)
def test_texts_of_other_images(folder, pages, step, words):
    report = check(folder, pages[-step:] + pages[:-step])
    assert report.counts() == {"other-image": 1}
    assert words in report.problems[0].advice


def test_images_that_are_missing_leave_where_the_outlines_end(folder, pages, tmp_path):
    """Headers alone: images without any edges."""
    Image.new("L", SIZE[::-1]).save(tmp_path / "blank.png")
    names = ['["blank.png"]'] * PAGES
    for name in ("swapped", "half", "twice", "per cent", "thousandths"):
        move, kind, words = MOVES[name]
        report = check(tmp_path, [move(page) for page in pages], names, ignore=["repeated-image"])
        assert report.counts() == {kind: 1}, name
        assert words in report.problems[0].advice
    report = check(tmp_path, pages, names, ignore=["repeated-image"])
    assert report.counts() == {}


def test_words_that_stand_upright_where_no_pixels_tell(folder, pages, tmp_path):
    Image.new("L", (400, 400)).save(tmp_path / "blank.png")
    upright = [page[..., ::-1] for page in pages]
    report = check(tmp_path, upright, ["blank.png"] * PAGES, ignore=["repeated-image"])
    assert report.counts() == {"turned": 1}
    assert "stand upright: are x and y swapped?" in report.problems[0].advice
    # Where the pixels say that they stand so, all is well.
    for k in range(PAGES):
        image = cv2.imread(str(folder / f"{k}.png"))
        cv2.imwrite(str(tmp_path / f"{k}.png"), image.transpose(1, 0, 2))
    assert check(tmp_path, upright, size=SIZE[::-1]).counts() == {}


@pytest.mark.parametrize(
    ("name", "kind"), [("twice", "scaled"), ("swapped", "turned"), ("normalised", "normalised")]
)
def test_a_cause_of_one_page_is_said_once(folder, pages, name, kind):
    move, _, words = MOVES[name]
    page = np.stack([pages[3][0] + np.array((0, 23 * i)) for i in range(-4, 5)])
    page = page - page.min(axis=(0, 1)) + np.array((W - 70, 5))  # a column at the right
    report = check(folder, [*pages[:3], move(page), *pages[4:]])
    assert report.counts() == {kind: 1}
    (problem,) = report.problems
    assert (problem.line, problem.entry, problem.place) == (4, None, "3.png")
    assert words in problem.advice and "Cut it off" not in problem.advice


def test_what_does_not_fit_in_any_way(folder, pages):
    page = np.concatenate((pages[0][:4], pages[0][:5] - np.array((W - 40, 0))))
    report = check(folder, [page, *pages[1:]])
    assert report.counts() in ({"outside": 1}, {"partly-outside": 1})
    assert "of its 9 texts reach beyond the image" in report.problems[0].advice
    assert "Are these the labels of this image?" in report.problems[0].advice


def test_crossings_of_one_kind_are_said_once(folder, pages):
    crossing = [page[:, [0, 1, 3, 2]] for page in pages]
    report = check(folder, [*pages[:3], crossing[3], *pages[4:]])
    assert [(p.line, p.entry, p.kind) for p in report.problems] == [(4, None, "crossing")]
    assert "9 of its 9 texts, from entry 1 on" in report.problems[0].advice
    report = check(folder, crossing)
    assert [(p.line, p.entry, p.kind) for p in report.problems] == [(None, None, "crossing")]
    assert "In 20 of 20 lines" in report.problems[0].advice
    assert "in the order 1, 2, 4, 3" in report.problems[0].advice


def test_few_texts_share_no_cause(folder, pages):
    report = check(folder, [page[:3, [0, 1, 3, 2]] for page in pages[:3]])
    assert report.counts() == {"crossing": 9, "no-text": 3}
