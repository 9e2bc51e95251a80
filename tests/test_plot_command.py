"""`python -m dbloss.plot` says what is text, ignored and dropped, and names what is wrong."""

import json
import re
import sys

import cv2
import numpy as np
import programs
import pytest
from matplotlib.figure import Figure
from pictures import assert_readable, axes_of, hatched, legend, marked, shown
from PIL import Image

from dbloss.plot import __main__ as plot_command
from dbloss.plot.targets import draw_targets, make_and_sort
from dbloss.targets import make_targets

# In an image of 128 x 96. On corners (10, 10) to (110, 40) an area of 3000 and a perimeter of 260
# move the outline by 3000 * 0.84 / 260 = 9.69.
WORD = [[10, 10], [110, 10], [110, 40], [10, 40]]
WORD_SHARE = (100 - 19) * (30 - 19) / (128 * 96)  # columns 20 to 100 and rows 20 to 30
HIDDEN = [[10, 50], [60, 50], [60, 70], [10, 70]]
HIDDEN_SHARE = 51 * 21 / (128 * 96)
SMALL = [[80, 60], [110, 60], [110, 67], [80, 67]]  # 7 pixels high
SMALL_SHARE = 31 * 8 / (128 * 96)
TEXTS = [("word", WORD), ("###", HIDDEN), ("\u5929\u5730", SMALL)]


def listed(texts):
    return [{"transcription": text, "points": points} for text, points in texts]


class Command:
    """Runs `python -m dbloss.plot` in this process, in a folder of its own."""

    def __init__(self, folder, monkeypatch, capsys):
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        # Most tests are about what is read and printed; the picture takes half a second.
        monkeypatch.setattr(plot_command, "draw_targets", lambda *_: Figure())
        monkeypatch.chdir(folder)
        self.image = self.write_image("page.png", np.full((96, 128, 3), 200, np.uint8))

    def write_image(self, name, array):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())
        return path

    def write_labels(self, content, name="label.txt"):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def __call__(self, *options, image=None, labels="label.txt", output="out.png"):
        """Return status, what was printed, and the message."""
        words = [image or self.image, self.folder / labels, "-o", self.folder / output, *options]
        self.monkeypatch.setattr(sys, "argv", ["plot", *map(str, words)])
        try:
            plot_command.main()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *self.capsys.readouterr()

    def numbers(self, *options, **files):
        """Return polygons and share of pixels of each row."""
        status, printed, message = self(*options, **files)
        assert (status, message) == (0, "")
        rows = re.findall(r"^([a-z ]+?) {2,}([\d,]*) +(\d+\.\d+)%$", printed, re.MULTILINE)
        return printed, {name: (int(n or -1), float(share) / 100) for name, n, share in rows}

    def refuses(self, *parts, **files):
        status, printed, message = self(**files)
        assert (status, printed) == (2, "")
        for part in parts:
            assert part in message, message
        assert "Traceback" not in message and message.startswith("python -m dbloss.plot: ")
        assert not (self.folder / "out.png").exists()


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return Command(tmp_path, monkeypatch, capsys)


def line(path, texts):
    return f"{path}\t{json.dumps(listed(texts), ensure_ascii=False)}\n"


def test_the_command_says_how_much_is_text_ignored_and_dropped(command):
    command.write_labels(line("other.png", []) + line("page.png", TEXTS))
    printed, rows = command.numbers()
    assert printed.startswith(f"{command.folder / 'label.txt'}, line 2\n")
    assert "targets of 96 x 128 pixels (height x width)" in printed
    assert "dropped: entries 3\n" in printed
    rest = 1 - WORD_SHARE - HIDDEN_SHARE - SMALL_SHARE
    assert rows == {
        "text": (1, pytest.approx(WORD_SHARE, abs=6e-5)),
        "ignored": (1, pytest.approx(HIDDEN_SHARE, abs=6e-5)),
        "dropped as too small": (1, pytest.approx(SMALL_SHARE, abs=6e-5)),
        "background": (-1, pytest.approx(rest, abs=6e-5)),
    }


def test_text_under_an_ignored_text_is_ignored(command):
    command.write_labels(line("page.png", [("word", WORD), ("###", WORD)]))
    rows = command.numbers()[1]
    assert rows["text"] == (1, 0)
    assert rows["ignored"] == (1, pytest.approx(101 * 31 / (128 * 96), abs=6e-5))


def test_the_size_decides_what_is_dropped(command):
    # At half the size the hidden text stays, and the word is 15 pixels high.
    command.write_labels(
        line("page.png", [*TEXTS, ("low", [[5, 80], [60, 80], [60, 94], [5, 94]])])
    )
    assert "dropped: entries 3\n" in command.numbers()[0]
    printed, rows = command.numbers("--size", "48", "128")
    assert (
        "targets of 48 x 128 pixels (height x width),\nthe image of 96 x 128 scaled by 0.5\n"
        in (printed)
    )
    assert "dropped: entries 3, 4\n" in printed
    assert rows["ignored"][1] == pytest.approx(26 * 11 / (48 * 128), abs=6e-5)
    printed, rows = command.numbers("--size", "192", "256")
    assert rows["dropped as too small"] == (0, 0) and "dropped: entries" not in printed


@pytest.mark.parametrize("seed", range(3))
def test_a_polygon_is_dropped_as_make_targets_drops_it(seed):
    rng = np.random.default_rng(seed)
    middles = rng.uniform(-5, 105, (40, 1, 2))
    polygons = (middles + rng.normal(0, 7, (40, 4, 2))).astype(np.float32)
    _, kinds = make_and_sort(list(polygons), [False] * 40, 100, 100)
    kept = [
        number
        for number, polygon in enumerate(polygons, start=1)
        if make_targets([polygon], [False], 100, 100).shrink_map.any()
    ]
    assert kinds[0].entries == kept and 3 < len(kept) < 37
    assert sorted(kinds[0].entries + kinds[2].entries) == list(range(1, 41))


def test_the_picture_shows_polygons_and_targets():
    polygons = [np.array(points, np.float32) for _, points in TEXTS]
    flags = [False, True, False]
    targets, kinds = make_and_sort(polygons, flags, 96, 128)
    image = np.full((96, 128, 3), 200, np.uint8)
    figure = draw_targets(image, polygons, targets, kinds, "title")
    axes = axes_of(figure)
    outlines = axes["polygons"].patches
    assert [patch.get_xy()[:4].tolist() for patch in outlines] == [WORD, HIDDEN, SMALL]
    assert len({patch.get_edgecolor() for patch in outlines}) == 3
    assert len({patch.get_linestyle() for patch in outlines}) == 3
    shrunk = axes["shrink map and mask"]
    np.testing.assert_array_equal(marked(shrunk, kinds[0].colour), targets.shrink_map)
    for kind, points in (kinds[1], HIDDEN), (kinds[2], SMALL):
        (left, top), (right, bottom) = points[0], points[2]
        expected = np.zeros((96, 128), bool)
        expected[top : bottom + 1, left : right + 1] = True
        np.testing.assert_array_equal(marked(shrunk, kind.colour), expected)
    np.testing.assert_array_equal(shown(axes["threshold map"]), targets.threshold_map)
    np.testing.assert_array_equal(hatched(axes["threshold map"]), targets.threshold_mask == 0)
    assert legend(figure)[:3] == [
        "text: 1, 7.25% of the pixels",
        "ignored: 1, 8.72% of the pixels",
        "dropped as too small: 1, 2.02% of the pixels",
    ]
    assert_readable(figure)


@pytest.mark.parametrize("size", [(30, 900), (900, 30), (1, 1)])
def test_the_picture_of_targets_of_any_size_is_readable(size):
    targets, kinds = make_and_sort([], [], *size)
    image = np.zeros((*size, 3), np.uint8)
    assert_readable(draw_targets(image, [], targets, kinds, "one line,\nand another"))


@pytest.mark.parametrize("mark", ["###", "*"])
def test_both_marks_of_an_ignored_text(command, mark):
    command.write_labels(line("page.png", [(mark, WORD), ("# ##", HIDDEN)]))
    assert {name: n for name, (n, _) in command.numbers()[1].items()} == {
        "text": 1,
        "ignored": 1,
        "dropped as too small": 0,
        "background": -1,
    }


@pytest.mark.parametrize(
    ("before", "path", "after"),
    [
        (b"\xef\xbb\xbf", "page.png", b""),
        (b"\n\r\n", "page.png", b"\n\n"),
        (b"", "./page.png", b""),
        (b"", "elsewhere/page.png", b""),
        (b"", "elsewhere\\page.png", b""),
        (b"page.png.bak\t[]\n", " page.png", b""),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_label_lines(command, before, path, after, ending):
    text = line(path, [("\u5929\u2028\u5730", WORD)]).replace("\n", ending).encode()
    command.write_labels(before + text + after)
    assert command.numbers()[1]["text"][0] == 1


@pytest.mark.parametrize("indent", [None, 2, "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_with_the_list_alone(command, indent, encoding):
    text = json.dumps(listed(TEXTS), indent=indent, ensure_ascii=False)
    command.write_labels(text.encode(encoding), "list.json")
    printed, rows = command.numbers(labels="list.json")
    assert rows["ignored"][0] == 1
    assert printed.startswith(f"{command.folder / 'list.json'}\ntargets")


def test_an_empty_list_is_a_page_without_text(command):
    for content in ("page.png\t[]", "[]", " [\n]"):
        command.write_labels(content)
        assert command.numbers()[1]["background"] == (-1, 1)


def test_the_longest_path_that_fits_is_taken(command):
    image = command.write_image("a/b/page.png", np.zeros((96, 128, 3), np.uint8))
    command.write_labels(
        line("page.png", []) + line("b/page.png", TEXTS[:1]) + line("c/b/page.png", [])
    )
    assert command.numbers(image=image)[0].splitlines()[0].endswith("line 2")
    # A relative path, and one with dots, mean the same file.
    for path in ("a/b/page.png", "a/../a/b/page.png"):
        assert command.numbers(image=path)[0].splitlines()[0].endswith("line 2")


@pytest.mark.parametrize("array", [np.zeros((96, 128), np.uint8), np.zeros((96, 128, 4), np.uint8)])
def test_grey_images_and_images_with_alpha(command, array):
    command.write_labels(line("page.png", TEXTS))
    image = command.write_image("\u5929/page.png", array)
    assert command.numbers(image=image)[1]["text"][0] == 1


def test_an_image_is_turned_as_its_exif_data_says(command):
    picture = Image.fromarray(np.zeros((96, 128, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees: 128 high, 96 wide
    picture.save(command.folder / "turned.jpg", exif=exif)
    command.write_labels(
        line("turned.jpg", [("low", [[10, 100], [80, 100], [80, 128], [10, 128]])])
    )
    printed, rows = command.numbers(image="turned.jpg")
    assert "targets of 128 x 96 pixels" in printed and rows["text"][0] == 1


def test_points_on_the_border_are_inside(command):
    command.write_labels(line("page.png", [("word", [[0, 0], [128, 0], [128, 96], [0, 96]])]))
    assert command.numbers()[1]["text"][0] == 1


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ({"transcription": "word"}, ['"points"', "['transcription']"]),
        ({"points": WORD}, ['"transcription"', "['points']"]),
        ("word", ["dict", "'word'"]),
        ({"transcription": None, "points": WORD}, ["string", "None"]),
        ({"transcription": "word", "points": WORD[:2]}, ["'word'", "at least 3 points, got 2"]),
        ({"transcription": "word", "points": []}, ["at least 3 points, got 0"]),
        ({"transcription": "word", "points": 3}, ["'word'", "numbers", "got 3"]),
        ({"transcription": "word", "points": [[1, 2, 3]] * 4}, ["numbers", "[1, 2, 3]"]),
        ({"transcription": "word", "points": [["1", 2]] * 4}, ["numbers", "['1', 2]"]),
        ({"transcription": "word", "points": [[True, 2]] * 4}, ["numbers", "[True, 2]"]),
        ({"transcription": "\u5929", "points": [*WORD[:3], [-1, 40]]}, ["\u5929", "(-1, 40)"]),
        ({"transcription": "word", "points": [*WORD[:3], [5, 97]]}, ["128 pixels wide", "(5, 97)"]),
        ({"transcription": "word", "points": [*WORD[:3], [128.5, 9]]}, ["96 high", "(128.5, 9)"]),
        ({"transcription": "###", "points": [*WORD[:3], [float("nan"), 9]]}, ["(nan, 9)"]),
        ({"transcription": "word", "points": [*WORD[:3], [1e400, 9]]}, ["(inf, 9)"]),
        ({"transcription": "word", "points": [*WORD[:3], [10**400, 9]]}, ["inside the image"]),
    ],
)
def test_a_wrong_entry_is_named(command, entry, parts):
    entries = json.dumps([*listed(TEXTS), entry], ensure_ascii=False)
    command.write_labels(f"other.png\t[]\npage.png\t{entries}\n")
    command.refuses("label.txt, line 2, entry 4 of 4: ", "expected", *parts)
    command.write_labels(entries)
    command.refuses("label.txt, entry 4 of 4: ", *parts)


def test_every_wrong_entry_is_named(command):
    command.write_labels(line("page.png", [("a", WORD[:1]), ("b", WORD), ("c", WORD[:2])]))
    command.refuses("line 1, entry 1 of 3: 'a'", "line 1, entry 3 of 3: 'c'")
    command.write_labels(line("page.png", [("a", WORD[:1])] * 25))
    command.refuses("entry 10 of 25", "and 15 more")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            'page.png\t[{"transcription": "a", "points": [[1, 2]',
            ["line 1: expected a list in JSON", "at column 42, near"],
        ),
        ('other.png\t[]\npage.png\t{"points": []}', ["line 2", "list", '{"points": []}']),
        ("page.png\tnull", ["line 1", "list", "null"]),
        ('[{"transcription": "a"},\n{"points": 1],\n{}]', ["JSON", "at line 2, column 13, near"]),
        ("page.png []", ["line 1", "no tab", "page.png []"]),
        ("page.png\t[]\nother.png []", ["line 2", "no tab"]),
        ("page.png\t[]\n\u5929.png\t[]".encode("gb18030"), ["line 2", "UTF-8", "0xCC"]),
        ("", ["page.png", "got 0", "empty"]),
        ("a.png\t[]\nb.png\t[]", ["page.png", "got 0", "line 1: a.png", "line 2: b.png"]),
        ("page.png\t[]\n\npage.png\t[]", ["page.png", "got 2", "line 1: page", "line 3: page"]),
        ("./page.png\t[]\npage.png\t[]", ["got 2", "line 1: ./page.png", "line 2: page.png"]),
        ("a/page.png\t[]\nb/page.png\t[]\nc.png\t[]", ["got 2", "line 2: b/page.png"]),
    ],
)
def test_a_wrong_file_is_named(command, content, parts):
    command.write_labels(content)
    command.refuses("label.txt", *parts)


def test_of_many_lines_ten_are_listed(command):
    command.write_labels("".join(line(f"{i}.png", []) for i in range(40)))
    command.refuses("line 10: 9.png", "and 30 more")


def test_missing_and_unreadable_files(command):
    command.write_labels(line("page.png", TEXTS))
    command.refuses("No such file", "absent.png", image="absent.png")
    command.refuses("No such file", "absent.txt", labels="absent.txt")
    for content in (b"", b"no image"):
        (command.folder / "broken.png").write_bytes(content)
        command.refuses("broken.png", "expected an image", image="broken.png")
    command.refuses("No such file", "absent/out.png", output="absent/out.png")
    command.refuses("'txt' is not supported", output="out.txt")


def test_wrong_options(command):
    command.write_labels(line("page.png", TEXTS))
    for options in (["--size", "0", "5"], ["--size", "640"], ["--size", "a", "b"], ["--sise", "1"]):
        status, _, message = command(*options)
        assert status == 2 and options[0] in message


def test_the_command_runs_as_a_module(command):
    command.write_labels(line("page.png", TEXTS))
    arguments = ["page.png", "label.txt", "-o", "out.png", "--size", "192", "192"]
    words = ["-W", "ignore", "-m", "dbloss.plot", *arguments]
    done = programs.run(*words, cwd=command.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "scaled by 1.5" in done.stdout
    picture = cv2.imread(str(command.folder / "out.png"))
    assert min(picture.shape[:2]) > 700 and picture.std() > 20


def test_help_says_what_it_reads(command):
    status, printed, _ = command("--help")
    assert status == 0
    for word in ("IMAGE", "ANNOTATIONS", "--output", "--size", "###"):
        assert word in printed
