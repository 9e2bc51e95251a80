"""The label doctor: each kind of fault, alone in a small file of its own."""

import csv
import json
import pickle
import re

import cv2
import numpy as np
import programs
import pytest
import shapely
from pictures import assert_readable, axes_of, legend
from PIL import Image

from dbloss.labels import KINDS, Report, check_labels, read_labels
from dbloss.labels.__main__ import main
from dbloss.plot import plot_pages, plot_problems, write_report
from dbloss.targets import make_targets

# In an image of 200 x 120: a text of 80 x 30 pixels, and one that is apart from it.
WORD = [[10, 10], [90, 10], [90, 40], [10, 40]]
OTHER = [[110, 60], [190, 60], [190, 90], [110, 90]]
SIZE = (120, 200)


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def line(name, *texts):
    """A line of a label file; a text is its points, or its transcription and points."""
    pairs = [text if isinstance(text, tuple) else ("word", text) for text in texts]
    entries = [{"transcription": text, "points": points} for text, points in pairs]
    return f"{name}\t{json.dumps(entries, ensure_ascii=False)}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the images that the lines of this file name."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Image.new("RGB", SIZE[::-1], "gray").save(tmp_path / name)
    return tmp_path


@pytest.fixture
def check(folder):
    """Writes a label file and returns the report."""

    def check(content, **options):
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "Label.txt").write_bytes(data)
        return check_labels("Label.txt", **{"size": SIZE} | options)

    return check


def found(report):
    return [(problem.line, problem.entry, problem.kind) for problem in report.problems]


# Nothing wrong ----------------------------------------------------------------------------------


def test_sound_labels_have_no_problem(check):
    report = check(line("a.png", WORD, OTHER, ("###", box(20, 60, 60, 80))) + line("b.png", WORD))
    assert found(report) == [] and report.counts() == {}
    assert "no problems" in report.summary()
    assert report.sides.tolist() == [30, 30, 30]
    # Of 80 x 30, moved by 2400 * 0.84 / 220 = 9.16, 62 x 12 pixels are left, give or take one.
    share = (2 * 62 * 12 + 62 * 12) / 2 / (120 * 200)
    assert report.text_share == pytest.approx(share, rel=0.15)


@pytest.mark.parametrize(
    "points",
    [
        [*WORD, WORD[0]],  # closed
        [*WORD, WORD[-1], WORD[-1]],  # padded to the number of points of another text
        WORD[::-1],  # counter-clockwise
        WORD[2:] + WORD[:2],  # begun at another corner
        WORD[:3],
        [["10", "10"], ["90", "10"], ["90", "40"], ["10", "40"]],  # PaddleOCR reads these too
        [[x - 10.4, y - 10.4] for x, y in WORD],  # beyond the border by less than half a pixel
        box(150, 80, 200, 120),
    ],
)
def test_what_paddleocr_trains_on_is_no_problem(check, points):
    assert found(check(line("a.png", points))) == []


def test_windows_line_ends_and_a_list_of_images(check):
    content = line("a.png", WORD).replace("\n", "\r\n") + line('["b.png", "b.png"]', WORD)
    assert found(check(content)) == []
    assert [page.images for page in read_labels("Label.txt")] == [("a.png",), ("b.png", "b.png")]


# Lines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "entry", "words"),
    [
        (b"b.png []", None, ["no tab"]),
        (b'b.png\t[{"transcription": "a", "points": [[1, 2]', None, ["broken JSON", "column 42"]),
        (b"b.png\t{}", None, ["expected a list", "{}"]),
        (b"b.png\t[]\t", None, None),
        (b"b.png\t[\t]", None, ["broken JSON", "second tab"]),
        (b"[1]\t[]", None, ["list of the paths", "[1]"]),
        (b"b.png," + b" [1]" * 99, None, ["no tab", "but ', '"]),
        (b'b.png\t[{"transcription": "a", "points": []}]', 1, ["'a'", "got []"]),
        (b'b.png\t[{"transcription": "a", "points": ' + b"[" * 400 + b"]" * 400 + b"}]", 1, ["[["]),
        (b"\t[]", None, ["no path"]),
        (b"", None, ["empty line"]),
        (b"b.png\t" + b"[" * 100000, None, ["nested too deeply"]),
        (b"b.png\t[" + b"1" * 5000 + b"]", None, ["a number that Python does not read"]),
        (b"\xcc\xec.png\t[]", None, ["not UTF-8", "0xCC at 1"]),
        (b'b.png\t[{"points": [[1, 2], [3, 4], [5, 0]]}]', 1, ['"transcription"', "['points']"]),
        (b'b.png\t["word"]', 1, ["dict", "'word'"]),
        (b'b.png\t[{"transcription": "a", "points": 3}]', 1, ["'a'", "got 3"]),
        (b'b.png\t[{"transcription": "a", "points": [[1, 2, 3]]}]', 1, ["[[1, 2, 3]]"]),
        (b'b.png\t[{"transcription": "a", "points": [["x", 2]]}]', 1, ["[['x', 2]]"]),
        (b'b.png\t[{"transcription": "a", "points": [[1, 2], [3]]}]', 1, ["[[1, 2], [3]]"]),
    ],
)
def test_unreadable_line(check, content, entry, words):
    report = check(line("a.png", WORD).encode() + content + b"\n" + line("b.png", WORD).encode())
    if words is None:  # what stands after a second tab is not read
        assert found(report)[0] == (2, None, "no-text")
        return
    assert found(report) == [(2, entry, "unreadable-line")]
    advice = report.problems[0].advice
    assert "trains on another line" in advice and advice[0].isupper()
    for word in words:
        assert word.lower() in advice.lower(), advice
    page = read_labels("Label.txt")[1]
    assert page.fault and page.texts == [] and page.line == 2 and page.entry == entry


def test_a_byte_order_mark_loses_the_first_image(check):
    report = check(b"\xef\xbb\xbf" + line("a.png", WORD).encode())
    assert found(report) == [(1, None, "unreadable-line")]
    assert "byte order mark" in report.problems[0].advice
    assert read_labels("Label.txt")[0].image == "a.png"


def test_missing_image(check, folder):
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").touch()
    report = check("".join(line(f"{name}.png", WORD) for name in ("a", "absent", "text", "empty")))
    assert found(report) == [(n, None, "missing-image") for n in (2, 3, 4)]
    assert "There is no file absent.png" in report.problems[0].advice
    assert "no image that OpenCV can read" in report.problems[1].advice
    assert "--images" not in report.problems[1].advice


@pytest.mark.parametrize(
    "name", ["[1].png", "[[.png", "[", "[]", "x" * 300, "a\0.png", "[" * 100000, f"[{'1' * 5000}]"]
)
def test_any_path_is_looked_for(check, folder, name):
    """PaddleOCR takes what is no list in JSON as a path, whatever it is made of."""
    if name.endswith(".png") and "\0" not in name:
        Image.new("RGB", SIZE[::-1]).save(folder / name)
        assert found(check(line(name, WORD))) == []
        return
    report = check(line("a.png", WORD) + line(name, WORD))
    assert found(report) == [(2, None, "missing-image")]
    assert "There is no file" in report.problems[0].advice and len(report.problems[0].place) < 200
    write_report(report, folder)


def test_a_line_without_a_tab_may_be_longer_than_a_path(check):
    report = check(line("a.png", WORD) + line("b.png", *[WORD] * 20).replace("\t", " "))
    assert found(report) == [(2, None, "unreadable-line")]
    assert report.problems[0].place == "b.png" and "No tab" in report.problems[0].advice


def test_two_records_in_one_line(check):
    one, other = line("a.png", WORD), line("b.png", OTHER)
    report = check(one.strip() + "\t" + other)
    assert found(report) == [(1, None, "unread-rest")]
    assert "second tab" in report.problems[0].advice and "b.png" in report.problems[0].advice
    assert found(check(one.strip() + "\t \r\n" + other)) == []


def test_texts_must_fit_each_image_that_a_line_may_take(check, folder):
    Image.new("RGB", (150, 80)).save(folder / "small.png")
    report = check(line('["a.png", "small.png"]', WORD, OTHER), size=(1200, 2000))
    assert found(report) == [(1, 2, "partly-outside")]
    assert report.problems[0].place.startswith("small.png: ")
    assert report.sides.tolist() == [300, 300]  # of the first image alone


def test_the_delimiter_of_the_data_set(check, folder, capsys):
    content = line("a.png", WORD).replace("\t", "::")
    assert found(check(content, delimiter="::")) == []
    assert read_labels("Label.txt", delimiter="::")[0].image == "a.png"
    with pytest.raises(ValueError, match="an image's path, ';' and a list in JSON"):
        check(content, delimiter=";")
    for value, error in (("", ValueError), ("\n", ValueError), (5, TypeError)):
        with pytest.raises(error, match="delimiter: expected text"):
            read_labels("Label.txt", delimiter=value)
    assert main(["Label.txt", "--delimiter", "::", "--size", "120", "200"]) == 0
    (folder / "Label.txt").write_text(line("a.png", WORD))
    assert main(["Label.txt", "--delimiter", r"\t", "--size", "120", "200"]) == 0


def test_one_number_is_the_size_of_a_square(check):
    assert check(line("a.png", WORD), size=640).size == (640, 640)
    for size in ((640,), (640, 640, 3), [], "640 640", (640, "x"), None):
        with pytest.raises((TypeError, ValueError), match="size: expected"):
            check(line("a.png", WORD), size=size)


def test_missing_images_of_another_folder_are_looked_for(check, folder):
    report = check(line(f"{folder.name}/a.png", WORD))
    assert found(report) == [(1, None, "missing-image")]
    assert f"Pass --images {folder.parent}" in report.problems[0].advice
    assert found(check(line(f"{folder.name}/a.png", WORD), images=folder.parent)) == []


def test_without_images_the_outlines_are_checked(check):
    crossing = [WORD[0], WORD[1], WORD[3], WORD[2]]
    report = check(line("absent.png", WORD, crossing, box(900, 9, 990, 30)))
    assert found(report) == [(1, None, "missing-image"), (1, 2, "crossing")]


def test_repeated_image(check):
    report = check(line("a.png", WORD) + line("b.png", WORD) + line("./a.png", OTHER))
    assert found(report) == [(3, None, "repeated-image")]
    assert "line 1" in report.problems[0].advice


# Texts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [WORD[:1], WORD[:2]])
def test_few_points(check, points):
    report = check(line("a.png", WORD, points))
    assert found(report) == [(1, 2, "few-points")]
    assert f"{len(points)} points" in report.problems[0].advice


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1e400", "null", "1" + "0" * 400])
def test_not_finite(check, value):
    text = line("a.png", OTHER, box(7777, 10, 90, 40))
    report = check(text.replace("7777", value, 1))
    assert found(report) == [(1, 2, "not-finite")]


@pytest.mark.parametrize(
    ("points", "order"),
    [
        ([WORD[0], WORD[1], WORD[3], WORD[2]], "1, 2, 4, 3"),  # as one reads: the commonest
        ([WORD[0], WORD[2], WORD[1], WORD[3]], "1, 3, 2, 4"),
        # A line of text along both sides from left to right.
        ([[10, 10], [50, 8], [90, 10], [10, 40], [50, 38], [90, 40]], "1, 2, 3, 6, 5, 4"),
        ([[10, 10], [90, 40], [90, 10], [30, 45], [10, 40]], None),
    ],
)
@pytest.mark.parametrize("mark", ["word", "###"])
def test_crossing(check, points, order, mark):
    report = check(line("a.png", OTHER, (mark, points)))
    assert found(report) == [(1, 2, "crossing")]
    advice = report.problems[0].advice
    assert (f"in the order {order}." if order else "Draw it anew") in advice


@pytest.mark.parametrize(
    "points",
    [
        [[10, 10]] * 4,
        [[10, 10], [50, 10], [90, 10], [30, 10]],
        [[0.1, 10.1], [40.2, 20.2], [60.3, 25.225], [80.4, 30.25]],  # a line but for rounding
        [[10, 10], [50.1, 30.07], [90.3, 50.15], [50.1, 30.05]],
        [[0, 0]] * 4,
        box(10, 10, 90, 10.4),
    ],
)
def test_no_area_and_nearly_none(check, points):
    assert found(check(line("a.png", OTHER, points))) == [(1, 2, "no-area")]


def test_normalised(check):
    normalised = (np.array(WORD) / (200, 120)).tolist()
    report = check(line("a.png", OTHER, normalised, [normalised[i] for i in (0, 1, 3, 2)]))
    assert found(report) == [(1, 2, "normalised"), (1, 3, "normalised")]
    assert found(check(line("a.png", OTHER, box(0, 0, 1.2, 1.2)))) == [(1, 2, "too-small")]


@pytest.mark.parametrize("mark", ["word", "###"])
@pytest.mark.parametrize("shift", [(200, 0), (-92, 0), (0, 120), (0, -500)])
def test_outside(check, shift, mark):
    points = (np.array(WORD) + shift).tolist()
    report = check(line("a.png", OTHER, (mark, points)))
    assert found(report) == [(1, 2, "outside")]
    assert "200 pixels wide and 120 high" in report.problems[0].advice


@pytest.mark.parametrize(
    ("shift", "crop"), [((-12, 0), True), ((115, 0), False), ((0, -11), True), ((0, 81), False)]
)
def test_partly_outside(check, shift, crop):
    report = check(line("a.png", (np.array(WORD) + shift).tolist()))
    assert found(report) == [(1, 1, "partly-outside")]
    advice = report.problems[0].advice
    assert re.search("reaches [125] pixels beyond", advice)
    assert ("random crop" in advice) == crop


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "####", "##", "**", " ###", "*\n", "don't care", "DONTCARE", "[illegible]"),
        *("\u5f85\u8bc6\u522b", None, "#", "."),
    ],
)
def test_other_names_of_ignored(check, name):
    report = check(line("a.png", OTHER, (name, WORD)))
    assert found(report) == [(1, 2, "ignored-name")]
    assert "###" in report.problems[0].advice


def test_difficult_texts_of_ppocrlabel(check):
    entries = [
        {"transcription": text, "points": points, "difficult": difficult}
        for text, points, difficult in [("a", WORD, True), ("###", OTHER, True), ("b", WORD, False)]
    ]
    report = check("a.png\t" + json.dumps(entries[:2]) + "\nb.png\t" + json.dumps(entries[2:]))
    assert found(report) == [(1, 1, "ignored-name")]
    assert "difficult" in report.problems[0].advice


@pytest.mark.parametrize("mark", ["difficult", "illegibility", "ignore"])
@pytest.mark.parametrize("yes", [True, 1, "true"])
def test_keys_that_mark_a_text_as_ignored(check, mark, yes):
    entries = [{"transcription": "a", "points": points} for points in (WORD, OTHER)]
    entries[1][mark] = yes
    report = check("a.png\t" + json.dumps(entries))
    assert found(report) == [(1, 2, "ignored-name")]
    assert repr(mark) in report.problems[0].advice
    entries[1][mark] = False
    assert found(check("a.png\t" + json.dumps(entries))) == []


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [("", "no-transcriptions", "remarks"), ("####", "ignored-name", "problems")],
)
def test_a_mark_that_most_texts_have_is_said_once_and_hides_nothing(check, name, kind, shown):
    texts = [(name, box(10, 10 + 20 * i, 90, 25 + 20 * i)) for i in range(5)]
    low = (name, box(110, 60, 190, 65))
    report = check(line("a.png", *texts, low) + line("b.png", *texts, ("word", OTHER)))
    (said,) = [p for p in getattr(report, shown) if p.line is None]
    assert said.kind == kind and "11 of 12 texts" in said.advice
    assert (1, 6, "too-small") in found(report)
    assert sum(p.kind == kind for p in (*report.problems, *report.remarks)) == 1
    assert f"the whole file, {kind}: " in report.summary()


@pytest.mark.parametrize("name", ["# 7", "care", "*a*", "unreadable sign", "\u5929"])
def test_texts_that_are_no_mark(check, name):
    assert found(check(line("a.png", (name, WORD)))) == []


def test_repeated_text(check):
    near, apart = box(11, 10, 91, 40), box(10, 12, 90, 42)  # IoU 79 / 81 and 28 / 32
    report = check(line("a.png", WORD, OTHER, near))
    assert found(report) == [(1, 3, "repeated-text")]
    assert "entry 1" in report.problems[0].advice and "0.98" in report.problems[0].advice
    assert found(check(line("a.png", ("###", WORD), OTHER, WORD))) == [(1, 3, "repeated-text")]
    assert found(check(line("a.png", ("###", WORD), OTHER, ("###", WORD)))) == []
    assert "repeated-text" not in check(line("a.png", WORD, OTHER, apart)).counts()


@pytest.mark.parametrize("mark", ["word", "###"])
def test_whole_page(check, mark):
    report = check(line("a.png", (mark, box(0, 0, 200, 60.5))))
    assert found(report)[-1] == (1, 1, "whole-page")
    assert "50%" in report.problems[-1].advice
    assert "whole-page" not in check(line("a.png", (mark, box(0, 0, 200, 59.5)))).counts()


@pytest.mark.parametrize(
    ("outer", "inner", "words"),
    [("line", "word", "become one"), ("###", "word", "nothing of it"), ("line", "###", "taken")],
)
def test_nested(check, outer, inner, words):
    lines = box(10, 10, 190, 50)
    report = check(line("a.png", (inner, box(20, 15, 80, 45)), (outer, lines)), size=(1200, 2000))
    assert (1, 1, "nested") in found(report)
    (problem,) = [problem for problem in report.problems if problem.kind == "nested"]
    assert "entry 2" in problem.advice and words in problem.advice


def test_a_text_has_the_first_of_its_causes_alone(check):
    # Nested ones touch, and one too small is gone too.
    report = check(line("a.png", box(10, 10, 190, 70), box(20, 30, 80, 50), box(150, 90, 155, 93)))
    assert found(report) == [(1, 2, "nested"), (1, 3, "too-small")]
    crossing = [[10, 10], [14, 10], [10, 13], [14, 13]]
    assert found(check(line("a.png", WORD, crossing))) == [(1, 2, "crossing")]


def test_too_small_at_the_training_size(check):
    low = box(110, 60, 190, 76)
    assert found(check(line("a.png", WORD, low))) == []
    report = check(line("a.png", WORD, low), size=(54, 200))  # scaled by 0.45
    assert found(report) == [(1, 2, "too-small")]
    assert "7.2 pixels high or wide at 54 x 200, below 8" in report.problems[0].advice
    assert found(check(line("a.png", WORD, low), size=(54, 200), min_text_size=7)) == []
    assert found(check(line("a.png", WORD, ("###", low)), size=(54, 200))) == []
    summary = check(line("a.png", WORD, low), size=(54, 200)).summary()
    assert "1 of them (50.0%) are below min_text_size=8" in summary
    assert re.search("--size 173 640 +0 ", summary) and re.search("--min-text-size 4 +0 ", summary)
    # At 3.6 pixels the lower limit would not help.
    summary = check(line("a.png", WORD, box(110, 60, 190, 68)), size=(54, 200)).summary()
    assert re.search("--min-text-size 4 +1 ", summary)


def test_gone(check):
    # 0.97 pixels high all along; on whole pixels a line, and 78 wide and high.
    slanted = [[10, 10], [88, 88], [88, 88.97], [10, 10.97]]
    report = check(line("a.png", OTHER, slanted))
    assert found(report) == [(1, 2, "gone")]
    assert "leaves nothing" in report.problems[0].advice


@pytest.mark.parametrize("step", [(0, 1), (1, 1)])
def test_touching(check, step):
    """Touching is to be one component of the shrink map; contours are followed across corners."""
    outcomes = []
    for n in range(12, 26):
        second = (np.array(box(10, 10, 50, 40)) + np.multiply(step, n)).tolist()
        polygons = [box(10, 10, 50, 40), second]
        shrink_map = make_targets(polygons, [False, False], *SIZE).shrink_map
        components = cv2.connectedComponents(shrink_map.astype(np.uint8), connectivity=8)[0] - 1
        report = check(line("a.png", *polygons))
        assert found(report) == ([(1, 2, "touching")] if components == 1 else [])
        outcomes.append(components)
        if components == 1:
            assert "entry 1" in report.problems[0].advice
        assert found(check(line("a.png", polygons[0], ("###", second)))) == []
    assert set(outcomes) == {1, 2}


@pytest.mark.parametrize(("apart", "touching"), [((0, 0), True), ((1, 0), False), ((0, 1), False)])
def test_texts_that_touch_by_a_corner_alone(check, apart, touching):
    first = box(10, 10, 50, 40)
    drawn = np.argwhere(make_targets([first], [False], *SIZE).shrink_map)[:, ::-1]
    step = (
        np.ptp(drawn, axis=0) + 1 + apart
    )  # the last pixel of one is diagonal to the other's first
    second = (np.array(first) + step).tolist()
    shrink_map = make_targets([first, second], [False, False], *SIZE).shrink_map.astype(np.uint8)
    assert [cv2.connectedComponents(shrink_map, connectivity=n)[0] - 1 for n in (4, 8)] == (
        [2, 1] if touching else [2, 2]
    )
    assert found(check(line("a.png", first, second))) == [(1, 2, "touching")] * touching


def test_copies_are_compared_with_the_first_alone(check, monkeypatch):
    """Pairs that were compared; 1,500 copies have 1.1 million."""
    compared = []
    intersection = shapely.intersection
    monkeypatch.setattr(
        shapely,
        "intersection",
        lambda a, b: (
            compared.append(len(b)) or intersection(a, b)
            if isinstance(b, np.ndarray)
            else intersection(a, b)
        ),
    )
    near = [(np.array(WORD) + (i % 3) / 50).tolist() for i in range(300)]
    report = check(line("a.png", *[WORD] * 300, *near, OTHER))
    assert found(report) == [(1, i, "repeated-text") for i in range(2, 601)]
    assert all("entry 1 covers" in problem.advice for problem in report.problems)
    assert sum(compared) < 10


def test_an_outline_that_runs_along_the_border_from_outside(check):
    """What is left of it in the image is an area and a line."""
    shape = [[20, 10], [20, 20], [-10, 20], [-10, 60], [0, 60], [0, 30], [20, 30], [20, 40]]
    shape += [[40, 40], [40, 10]]
    report = check(line("a.png", shape, box(30, 15, 90, 60), box(-20, 50, 40, 80)))
    assert (1, 1, "partly-outside") in found(report)


# Images -----------------------------------------------------------------------------------------


def test_no_text(check):
    report = check(line("a.png", WORD) + line("b.png"))
    assert found(report) == [(2, None, "no-text")]
    assert "trains on another" in report.problems[0].advice
    report = check(line("a.png", ("###", OTHER), box(10, 10, 15, 15)))
    assert found(report) == [(1, None, "no-text"), (1, 2, "too-small")]


def test_all_ignored(check):
    report = check(line("a.png", ("###", WORD), ("*", OTHER)))
    assert found(report) == [(1, None, "all-ignored")]


def test_mostly_ignored(check):
    half = line("a.png", ("###", WORD), OTHER)
    more = line("b.png", ("###", WORD), OTHER, ("*", box(10, 80, 60, 100)))
    report = check(half + more)
    assert found(report) == [] and report.counts() == {}
    (remark,) = report.remarks
    assert (remark.line, remark.kind) == (2, "mostly-ignored")
    assert "2 of its 3 texts" in remark.advice
    assert "no problems" in report.summary() and "1  mostly-ignored" in report.summary()
    assert main(["Label.txt", "--size", "120", "200"]) == 0
    assert check(half + more, ignore=["mostly-ignored"]).remarks == []


# What is read of images -------------------------------------------------------------------------


def test_an_image_is_turned_as_its_exif_data_says(check, folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # 200 high and 120 wide
    Image.new("RGB", SIZE[::-1]).save(folder / "turned.jpg", exif=exif)
    assert found(check(line("turned.jpg", box(20, 130, 110, 190)))) == []
    assert found(check(line("turned.jpg", OTHER)))[0][2] == "partly-outside"


def test_pixels_are_not_read(check, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr(cv2, "imread", None)
    monkeypatch.setattr(Image.Image, "load", None)
    assert found(check(line("a.png", WORD))) == []


# The report -------------------------------------------------------------------------------------

FAULTY = line("a.png", WORD, box(110, 10, 190, 15), ("###", OTHER)) + "b.png\n"


def test_every_kind_is_explained_and_its_name_is_fixed():
    lines = """
        unreadable-line missing-image repeated-image unread-rest other-image turned scaled shifted
        few-points not-finite crossing no-area normalised outside ignored-name partly-outside
        repeated-text whole-page nested too-small gone touching no-text all-ignored mostly-ignored
        no-transcriptions"""
    assert list(KINDS) == lines.split()
    assert [kind for kind, what in KINDS.items() if what.remark] == lines.split()[-2:]


def test_problems_csv_opens_in_a_spreadsheet(check, folder):
    name = "\u5929\ud800.png"  # half of a pair of code units, which JSON can write
    low = line("a.png", WORD, ("\u5929", box(110, 10, 190, 15)), ("###", OTHER), ("*", OTHER))
    report = check(low + line(json.dumps([name]), WORD) + line("b.png", WORD))
    written = write_report(report, folder / "out")
    assert [path.name for path in written] == ["problems.csv", "contact-sheet.png", "pages.png"]
    assert written[0].read_bytes().startswith(b"\xef\xbb\xbf")
    with written[0].open(encoding="utf-8-sig") as file:
        header, first, second = csv.reader(file)
    assert header == ["line", "entry", "kind", "place", "advice", "severity"]
    assert first[:4] == ["1", "2", "too-small", "a.png: 110, 10 to 190, 15"]
    assert second[:4] == [
        "2",
        "",
        "missing-image",
        r"\u5929\ud800.png".replace("\\u5929", "\u5929"),
    ]
    assert first[5] == second[5] == "problem"
    assert all(cv2.imread(str(path)).std() > 5 for path in written[1:])


def test_remarks_stand_in_the_table_too(check, folder):
    texts = ("###", WORD), ("###", OTHER), box(10, 60, 90, 90)
    written = write_report(check(line("a.png", *texts)), folder)
    with written[0].open(encoding="utf-8-sig") as file:
        _, remark = csv.reader(file)
    assert remark[2] == "mostly-ignored" and remark[5] == "remark"


def test_ignored_kinds_are_no_problem_and_show_what_is_behind(check):
    report = check(FAULTY, ignore=["unreadable-line", "too-small"])
    assert found(report) == []
    low = [[190, 60], [240, 60], [240, 65], [190, 65]]
    assert found(check(line("a.png", WORD, low))) == [(1, 2, "partly-outside")]
    report = check(line("a.png", WORD, low), ignore=["partly-outside"])
    assert found(report) == [(1, 2, "too-small")]


def test_the_summary_counts_kinds_and_sizes(check):
    summary = check(FAULTY).summary()
    assert "2 lines, 3 texts, 1 of them ignored" in summary
    assert re.search(r"^ +1  too-small +in 1 lines", summary, re.MULTILINE)
    assert re.search(r"^ +4 to 8 +1  #+$", summary, re.MULTILINE)
    assert re.search(r"^ +24 to 32 +1  #+$", summary, re.MULTILINE)


def test_the_contact_sheet_shows_texts_by_line_and_entry(check):
    crossing = [WORD[0], WORD[1], WORD[3], WORD[2]]
    report = check(FAULTY + line("b.png", crossing, OTHER) + line("a.png"))
    figure = plot_problems(report)
    axes = axes_of(figure, loc="left")
    assert set(axes) == {
        "line 1, entry 2: too-small",
        "line 3, entry 1: crossing",
        "line 4: repeated-image",
        "line 4: no-text",
    }
    ax = axes["line 3, entry 1: crossing"]
    outlines = [patch.get_xy()[:4].tolist() for patch in ax.patches]
    assert crossing in outlines and OTHER in outlines
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3", "4"]
    # Zoomed: the text takes more than half of the width.
    assert 80 < np.ptp(ax.get_xlim()) < 160
    assert_readable(figure)
    assert legend(figure) == ["the text in question", "a text that counts", "an ignored text"]
    assert [text.get_text() for text in axes["line 1, entry 2: too-small"].texts] == ["5.0 pixels"]
    assert plot_problems(report, most=1).axes[0].get_title(loc="left").startswith("line 4")
    assert plot_problems(check("a.png\n" + line("absent.png", WORD))) is None


def test_pages_without_problems_are_drawn_from_the_whole_file(check, folder):
    names = [f"{i}.png" for i in range(30)]
    for name in names:
        Image.new("RGB", SIZE[::-1], "gray").save(folder / name)
    lines = [line(name, WORD, ("###", OTHER)) for name in names]
    lines[7] = line("7.png", WORD, box(110, 10, 190, 15))
    report = check("".join(lines))
    figure = plot_pages(report, most=5)
    drawn = [int(title.split()[1]) for title in axes_of(figure, loc="left")]
    assert len(drawn) == 5 and drawn[0] == 1 and drawn[-1] == 30 and 8 not in drawn
    for ax in axes_of(figure, loc="left").values():
        assert {patch.get_linestyle() for patch in ax.patches} == {"-", "--"}
    assert legend(figure) == ["a text that counts", "an ignored text"]
    assert (
        figure.get_suptitle() == "5 of 29 pages without a problem of their own, from the whole file"
    )
    assert_readable(figure)
    assert_readable(plot_pages(report, most=1))
    assert len(plot_pages(report).axes) == 12
    assert plot_pages(check(FAULTY)) is None


def test_reports_pickled_by_earlier_versions_are_read(check):
    """They name the module `dbloss.labels`, and a report had no remarks."""
    report = check(FAULTY)
    content = pickle.dumps(tuple(report)[:9], 0).decode("latin-1")
    content = re.sub(r"(?<=c)dbloss\.labels\.\w+(?=\n)", "dbloss.labels", content)
    assert "cdbloss.labels\nPage" in content and "cdbloss.labels\nProblem" in content
    read = Report(*pickle.loads(content.encode("latin-1")))
    assert read.counts() == report.counts() and read.remarks == ()
    assert read.summary() == report.summary()
    again = pickle.loads(pickle.dumps(report))
    assert again.problems == report.problems and again.pages[1] == report.pages[1]


# The command ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "options", "status"),
    [
        (line("a.png", WORD), [], 0),
        (FAULTY, [], 1),
        (FAULTY, ["--ignore", "too-small"], 1),
        (FAULTY, ["--ignore", "too-small", "--ignore", "unreadable-line"], 0),
        (FAULTY, ["--min-text-size", "4", "--ignore", "unreadable-line"], 0),
        ("b.png\n", [], 2),
        ("", [], 2),
    ],
)
def test_exit_status(folder, capsys, content, options, status):
    (folder / "Label.txt").write_text(content)
    size = ["--size", "120", "200"]
    try:
        assert main(["Label.txt", *size, *options]) == status
    except SystemExit as end:
        assert end.code == status == 2
        assert "Label.txt: expected lines" in capsys.readouterr().err


def test_a_file_that_is_not_there_and_wrong_options(folder, capsys):
    (folder / "Label.txt").write_text(line("a.png", WORD))
    for words, message in [
        (["absent.txt"], "No such file"),
        (["Label.txt", "--ignore", "to-small"], "to-small"),
        (["Label.txt", "--size", "0", "5"], "at least 1"),
    ]:
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2 and message in capsys.readouterr().err
    with pytest.raises(ValueError, match="ignore: expected one of 'unreadable-line'"):
        check_labels("Label.txt", ignore=["to-small"])


def test_the_command_runs_as_a_module(folder):
    (folder / "Label.txt").write_text(FAULTY)
    words = ["-W", "ignore", "-m", "dbloss.labels", "Label.txt", "--size", "120", "200"]
    done = programs.run(*words, "--out", "report", "--images", str(folder), cwd=folder)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "too-small" in done.stdout and "report/contact-sheet.png" in done.stdout
    assert (folder / "report" / "problems.csv").is_file()
