"""plot_targets, and `python -m dbloss.plot`: text, ignored, dropped, and what is wrong."""

import json
import re
import sys

import cv2
import numpy as np
import programs
import pytest
from matplotlib.figure import Figure
from pictures import assert_readable, axes_of, legend, marked, shown, surrounded
from PIL import Image

from dbloss.plot import __main__ as plot_command
from dbloss.plot import plot_targets
from dbloss.plot.targets import make_and_sort
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
    assert "entry 3: too-small, " in printed and "entry 1" not in printed
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
    assert re.findall(r"entry (\d): too-small", command.numbers()[0]) == ["3"]
    printed, rows = command.numbers("--size", "48", "128")
    assert (
        "targets of 48 x 128 pixels (height x width),\nthe image of 96 x 128 scaled by 0.5\n"
        in (printed)
    )
    assert re.findall(r"entry (\d): too-small", printed) == ["3", "4"]
    # The image takes 64 of the 128 columns.
    assert rows["ignored"][1] == pytest.approx(26 * 11 / (48 * 64), abs=6e-5)
    printed, rows = command.numbers("--size", "192", "256")
    assert rows["dropped as too small"] == (0, 0) and "too-small" not in printed


@pytest.mark.parametrize("seed", range(3))
def test_a_polygon_is_dropped_as_make_targets_drops_it(seed):
    rng = np.random.default_rng(seed)
    middles = rng.uniform(-5, 105, (40, 1, 2))
    polygons = (middles + rng.normal(0, 7, (40, 4, 2))).astype(np.float32)
    kinds = make_and_sort((100, 100), list(polygons), [False] * 40).kinds
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
    targets, kinds, *_ = make_and_sort((96, 128), polygons, flags)
    image = np.full((96, 128, 3), 200, np.uint8)
    figure = plot_targets(image, polygons, flags, title="title")
    page, *zooms = axes_of(figure, loc="left").items()
    page = page[1]
    assert len(page.get_subplotspec().colspan) == 3  # at full width
    outlines = {str(patch.get_xy()[:4].tolist()): patch for patch in page.patches}
    assert outlines.keys() == {str(np.array(points, float).tolist()) for _, points in TEXTS}
    assert len({patch.get_edgecolor() for patch in outlines.values()}) == 3
    assert len({patch.get_linestyle() for patch in outlines.values()}) == 3
    assert all(patch.get_path_effects() for patch in outlines.values())  # dark lines below
    assert sorted(text.get_text() for text in page.texts) == ["1", "2", "3"]
    np.testing.assert_array_equal(marked(page, kinds.text.colour), targets.shrink_map)

    # The faulty one first, then what is left; each in three panels.
    assert [title for title, _ in zooms] == [
        "entry 3: too-small",
        "entry 3: shrink map and mask",
        "entry 3: threshold map and mask",
        "entry 1",
        "entry 1: shrink map and mask",
        "entry 1: threshold map and mask",
    ]
    axes = dict(zooms)
    shrunk, threshold = (axes[f"entry 1: {name} map and mask"] for name in ("shrink", "threshold"))
    np.testing.assert_array_equal(marked(shrunk, kinds[0].colour), targets.shrink_map)
    for kind, points in (kinds[1], HIDDEN), (kinds[2], SMALL):
        (left, top), (right, bottom) = points[0], points[2]
        expected = np.zeros((96, 128), bool)
        expected[top : bottom + 1, left : right + 1] = True
        np.testing.assert_array_equal(marked(shrunk, kind.colour), expected)
    np.testing.assert_array_equal(shown(threshold), targets.threshold_map)
    y, x = np.mgrid[:96, :128]
    hidden = surrounded(threshold, filled=True, points=np.stack((x, y), axis=2))
    np.testing.assert_array_equal(hidden, targets.threshold_mask == 0)
    for name in ("entry 3: too-small", "entry 3: shrink map and mask"):
        (x0, x1), (y1, y0) = axes[name].get_xlim(), axes[name].get_ylim()
        assert x0 < 80 and x1 > 110 and y0 < 60 and y1 > 67 and x1 - x0 < 70
    assert legend(figure)[:3] == [
        "text: 1, 7.25% of the pixels",
        "ignored: 1, 8.72% of the pixels",
        "dropped as too small: 1, 2.02% of the pixels",
    ]
    assert_readable(figure)


def test_at_a_training_size_the_maps_lie_where_the_image_has_them():
    polygons = [np.array(points, np.float32) for _, points in TEXTS]
    image = np.full((96, 128, 3), 200, np.uint8)
    figure = plot_targets(image, polygons, [False] * 3, training_size=(300, 256), zoom=[1])
    axes = axes_of(figure, loc="left")
    (layer,) = axes["entry 1: threshold map and mask"].get_images()
    assert layer.get_array().shape == (300, 256)  # twice as large, and padded
    assert layer.get_extent() == [-0.25, 127.75, 149.75, -0.25]
    assert len(axes) == 4 and figure.get_size_inches()[0] == 12
    share = make_targets([np.array(WORD) * 2], [False], 192, 256).shrink_map.mean()
    assert legend(figure)[0].startswith("text: 3, ")
    made = make_and_sort((96, 128), polygons[:1], [False], (300, 256))
    assert made.kinds.text.pixels[:192].mean() == pytest.approx(share)


def test_what_no_target_can_be_made_of_is_left_out_and_said():
    broken = [np.zeros((0, 2)), np.array([(1, 2), (3, np.nan), (4, 5)]), np.array(WORD)]
    figure = plot_targets(np.zeros((96, 128)), broken, [False, True, False])
    assert legend(figure)[0].startswith("text: 1, ")
    with pytest.raises(ValueError, match="zoom: expected numbers of polygons, from 1 to 3, got 4"):
        plot_targets(np.zeros((96, 128)), broken, [False, True, False], zoom=[4])
    with pytest.raises(ValueError, match="image: expected the shape"):
        plot_targets(np.zeros((96, 128, 7)), broken, [False, True, False])


@pytest.mark.parametrize("size", [(30, 900), (900, 30), (1, 1)])
def test_the_picture_of_targets_of_any_size_is_readable(size):
    assert_readable(plot_targets(np.zeros((*size, 3)), [], [], title="one line,\nand another"))


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
        (b"", ".\\page.png", b""),
        (b"page.png.bak\t[]\nother []\n", " page.png", b""),
        (b"", '["other.png", "page.png"]', b""),
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


def test_the_line_is_that_of_the_path_from_the_label_file_or_from_images(command):
    image = command.write_image("test/page.png", np.zeros((96, 128, 3), np.uint8))
    command.write_labels(line("train/page.png", []) + line("test/page.png", TEXTS[:1]))
    # A relative path, and one with dots, mean the same file.
    for path in (image, "test/page.png", "test/../test/page.png"):
        printed, _ = command.numbers(image=path)
        assert printed.splitlines()[0].endswith("line 2") and "name alone" not in printed
    (command.folder / "lists").mkdir()
    command.write_labels(line("other.png", []) + line("test/page.png", TEXTS), "lists/label.txt")
    printed, _ = command.numbers("--images", ".", image=image, labels="lists/label.txt")
    assert "line 2\n" in printed and "name alone" not in printed


def test_a_line_of_the_same_name_alone_is_said_or_refused(command, monkeypatch):
    titles = []
    monkeypatch.setattr(plot_command, "draw_targets", lambda *a: titles.append(a[3]) or Figure())
    image = command.write_image("moved/page.png", np.zeros((96, 128, 3), np.uint8))
    command.write_labels(line("other.png", []) + line("gone/page.png", TEXTS))
    remark = "found by its name alone: the line means gone/page.png"
    assert remark in command.numbers(image=image)[0] and titles[0].startswith(remark)
    (command.folder / "out.png").unlink()
    # ICDAR's train and test both have an img_1.jpg: the line is that of another image.
    command.write_labels(line("page.png", TEXTS))
    command.refuses("moved/page.png", "only the name", "--images", "line 1: page.png", image=image)
    # Nobody knows which of two is meant.
    command.write_labels(line("a/page.png", TEXTS) + line("b/page.png", []))
    command.refuses("only the name", "line 1: a/page.png", "line 2: b/page.png", image=image)


def test_what_paddleocr_trains_on_is_drawn_with_a_remark(command):
    beyond = [[-2, 10], [110, 10], [110, 40], [-2, 40]]
    crossing = [WORD[0], WORD[1], WORD[3], WORD[2]]
    command.write_labels(line("page.png", [("a", beyond), ("b", WORD[:2]), ("####", HIDDEN)]))
    printed, rows = command.numbers()
    assert rows["text"][0] == 2 and rows["dropped as too small"][0] == 1
    assert "entry 1: partly-outside, " in printed and "2 pixels beyond" in printed
    assert "entry 2: few-points, " in printed and "entry 3: ignored-name, " in printed
    command.write_labels(line("page.png", [("a", crossing)]))
    printed, _ = command.numbers()
    assert "entry 1: crossing, " in printed and "in the order 1, 2, 4, 3" in printed
    assert "too-small" not in printed


@pytest.mark.parametrize("array", [np.zeros((96, 128), np.uint8), np.zeros((96, 128, 4), np.uint8)])
def test_grey_images_and_images_with_alpha(command, array):
    command.write_labels(line("page.png", TEXTS))
    image = command.write_image("\u5929/page.png", array)
    command.write_labels(line("\u5929/page.png", TEXTS))
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
        ("word", ["dict", "'word'"]),
        ({"transcription": "word", "points": 3}, ["'word'", "numbers", "got 3"]),
        ({"transcription": "word", "points": [[1, 2, 3]] * 4}, ["numbers", "[1, 2, 3]"]),
    ],
)
def test_an_entry_that_cannot_be_read_is_named(command, entry, parts):
    entries = json.dumps([*listed(TEXTS), entry], ensure_ascii=False)
    command.write_labels(f"other.png\t[]\npage.png\t{entries}\n")
    command.refuses("label.txt, line 2, entry 4: ", "expected", *parts)
    command.write_labels(entries)
    command.refuses("label.txt, entry 4: ", *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            'page.png\t[{"transcription": "a", "points": [[1, 2]\nother.png\t[]',
            ["line 1: broken JSON", "at column 42 of the list, near"],
        ),
        ('other.png\t[]\npage.png\t{"points": []}', ["line 2", "list", '{"points": []}']),
        ('[{"transcription": "a"},\n{"points": 1],\n{}]', ["JSON", "at line 2, column 13"]),
        ("page.png []", ["none among 1", "line 1: no tab"]),
        ("other.png\t[]\npage.png", ["line 2: no tab"]),
        ("page.png\t[]\n\npage.png\t[]", ["page.png", "got 2", "line 1: page", "line 3: page"]),
        ("./page.png\t[]\npage.png\t[]", ["got 2", "line 1: ./page.png", "line 2: page.png"]),
        ("a.png\t[]\nb.png\t[]", ["page.png", "got 0", "line 1: a.png", "line 2: b.png"]),
        ("", ["none among 1", "an empty line"]),
    ],
)
def test_a_wrong_file_is_named(command, content, parts):
    command.write_labels(content)
    command.refuses("label.txt", *parts)


def test_of_many_lines_ten_are_listed(command):
    command.write_labels("".join(line(f"{i}.png", []) for i in range(40)))
    command.refuses("line 10: 9.png", "and 30 more")


@pytest.mark.parametrize("name", ["a\0.png", "x" * 300, "[" * 100000, "\ud800", "a [] b"])
def test_no_path_of_another_line_ends_the_command(command, name):
    paths = json.dumps([name])
    command.write_labels(
        line(paths, TEXTS) + line("page.png", TEXTS) + (line(name, []) if name != "\ud800" else "")
    )
    assert command.numbers()[1]["text"][0] == 1
    (command.folder / "out.png").unlink()
    image = command.write_image("b.png", np.zeros((9, 9)))
    command.refuses("got 0", "line 2: page.png", image=image)


def test_the_delimiter_of_the_data_set(command):
    command.write_labels(line("page.png", TEXTS).replace("\t", "::"))
    assert command.numbers("--delimiter", "::")[1]["text"][0] == 1


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
    for word in ("IMAGE", "ANNOTATIONS", "--output", "--size", "--images", "--zoom", "###"):
        assert word in printed
