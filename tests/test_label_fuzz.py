"""No content of a line ends a check: seeded lines, made of what lines are made of."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from dbloss.labels import check_labels, read_labels
from dbloss.labels.find import find_page
from dbloss.plot import write_report

LINES = 250
ODD = ["", " ", "\0", "[", "]", "[]", "[1]", "{", "\\", '"', "\ufeff", "\u2028", "\r", "\x85", "/"]
ODD += ["../" * 40, "x" * 300, "[" * 2000, "1" * 5000, "\U0001f600", "NaN", "-0", "a.png", "."]
NUMBERS = [0, 1, -1, 0.5, 10, 90, 40, 1e6, -1e30, 3.4e38, 1e39, 1e300, 1e-40, float("nan")]
NUMBERS += [float("inf"), 10**30, 2**53, "7", "x", None, True, [], {}, [[]], "1e999", "\ud800"]


class Writer:
    """Makes up lines: right ones, ones with odd values, and ones whose bytes were changed."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def value(self, depth=0):
        """Anything that JSON can hold."""
        kind = self.rng.integers(6 if depth < 4 else 4)
        if kind < 2:
            return self.pick(NUMBERS)
        if kind < 4:
            return self.pick(ODD)
        values = [self.value(depth + 1) for _ in range(self.rng.integers(4))]
        return values if kind == 4 else {f"{self.pick(ODD)}{i}": v for i, v in enumerate(values)}

    def points(self, tame):
        shape = (self.rng.integers(3 * tame, 9), 2)
        kind = self.rng.integers(5 if tame else 6)
        if kind < 3:
            points = self.rng.integers(-20, 220, shape)
            return (points // 40 * 40 if kind else points).tolist()  # many that meet
        if kind == 3:
            return [[self.pick(NUMBERS[:16]) for _ in range(2)] for _ in range(shape[0])]
        if kind == 4:
            return (self.rng.normal(0, 1, shape) * 10.0 ** self.rng.integers(-40, 38)).tolist()
        return self.value()

    def entry(self, tame):
        if not tame and self.rng.random() < 0.1:
            return self.value()
        entry = {"transcription": self.pick(["word", "###", "*", *ODD, None, 5, [], {}])}
        entry["points"] = self.points(tame)
        if self.rng.random() < 0.3:
            entry[self.pick(["difficult", "ignore", "legibility", "language"])] = self.value()
        return entry

    def line(self):
        tame = bool(self.rng.integers(2))  # the texts can be read, whatever their points are
        path = self.pick(["a.png", "b.png"])
        path = path if tame else self.pick([path, *ODD, json.dumps(self.value())])
        entries = [self.entry(tame) for _ in range(self.rng.integers(7))]
        text = f"{path}\t{json.dumps(entries, ensure_ascii=bool(self.rng.integers(2)))}"
        line = text.encode(errors="surrogatepass").replace(b"\n", b"")
        for _ in range(0 if tame else self.rng.integers(4)):
            at = self.rng.integers(len(line) + 1)
            cut = at + self.rng.integers(3)
            odd = self.pick(
                [
                    bytes([self.rng.integers(256)]),
                    self.pick(ODD).encode(errors="surrogatepass"),
                    b"\t",
                ]
            )
            line = self.pick([line[:at] + odd + line[cut:], line[:at], line[at:] + line[:at]])
        return line.replace(b"\n", b"")


def run(folder, seed, lines=LINES):
    """Check a file of made-up lines as both commands do."""
    writer = Writer(seed)
    made = [b'a.png\t[{"transcription": "w", "points": [[9, 9], [80, 9], [80, 60]]}]']
    made += [writer.line() for _ in range(lines)]
    file = folder / "Label.txt"
    file.write_bytes(b"\n".join(made) + b"\n")
    assert len(read_labels(file)) == len(made)
    report = check_labels(file, size=(int(writer.rng.integers(1, 300)), 200))
    report.summary()
    for problem in (*report.problems, *report.remarks):
        assert problem.line is None or 1 <= problem.line <= len(made)
        assert len(problem.place) < 300 and problem.advice
    try:
        find_page(file, folder / "a.png")
    except ValueError as error:  # the image is in several lines
        assert "expected one line" in str(error)
    return report


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("L", (200, 120), 9).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("seed", range(3))
def test_no_line_ends_a_check(folder, seed):
    report = run(folder, seed)
    assert len(report.counts()) > 10  # most kinds were there
    if not seed:
        written = write_report(report, folder / "report", most=8)
        assert all(path.stat().st_size > 1000 for path in written)


if __name__ == "__main__":  # python tests/test_label_fuzz.py 1000: files, from seed 100 on
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as name:
        for image in ("a.png", "b.png"):
            Image.new("L", (200, 120), 9).save(Path(name, image))
        for seed in range(100, 100 + int(sys.argv[1])):
            try:
                report = run(Path(name), seed)
                if seed % 50 == 0:
                    write_report(report, Path(name, "report"), most=6)
                    print(seed, report.counts(), flush=True)
            except Exception:
                print("seed", seed, flush=True)
                raise
