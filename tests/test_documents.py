"""What the documents show runs: the examples of the docstrings and the code of the READMEs."""

import csv
import doctest
import importlib
import os
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dbloss

README = Path(__file__).resolve().parents[1] / "README.md"
CHINESE = README.with_name("README.zh-CN.md")
DOCS = README.with_name("docs")
MODULES = [
    "dbloss",
    *(module.name for module in pkgutil.walk_packages(dbloss.__path__, "dbloss.")),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_docstrings(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert not failed


@pytest.mark.parametrize("readme", [README, CHINESE], ids=lambda readme: readme.name)
def test_code_of_the_readme(readme, monkeypatch, tmp_path):
    losses = ModuleType("ppocr.losses.det_db_loss")
    losses.DBLoss = type("DBLoss", (), {})
    for name in ("ppocr", "ppocr.losses"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, losses.__name__, losses)
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)
    added = re.findall(r"^\+(.*)", readme.read_text("utf-8"), re.MULTILINE)  # to PaddleOCR's file
    assert blocks and len(added) == 1
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks + added:
        exec(compile(block, str(readme), "exec"), names)
    assert losses.DBLoss is dbloss.DBLoss
    assert (tmp_path / "maps.png").read_bytes()[:4] == b"\x89PNG"
    assert set(names["losses"]) == {
        "loss",
        "loss_shrink_maps",
        "loss_threshold_maps",
        "loss_binary_maps",
    }


PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```py" in page.read_text("utf-8")]


# Paddle's own, where it compiles a backward pass, and where `paddle.Model` copies a batch.
@pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_the_pages(page):
    """Blocks of `python` run, and what blocks of `pycon` show comes out; lines may be broken."""
    names = {}
    blocks = re.findall(
        r"^```(python|pycon)\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert blocks
    for language, block in blocks:
        if language == "python":
            exec(compile(block, str(page), "exec"), names)
            continue
        session = doctest.DocTestParser().get_doctest(block, names, page.name, str(page), 0)
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        failed, _ = doctest.DocTestRunner(optionflags=flags).run(session, clear_globs=False)
        assert not failed
        names = session.globs


@pytest.mark.parametrize("name", dbloss.__all__)
def test_public_names_are_on_the_api_page(name):
    page = DOCS / "api.md"
    assert f"::: dbloss.{name}\n" in page.read_text("utf-8")


def test_the_map_for_contributors_names_every_file_of_the_package():
    root = README.parent
    rows = re.findall(
        r"^\| (`.+?`) \|", (root / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE
    )
    named = {name for row in rows for name in re.findall(r"`(\S+/\S*)`", row)}
    missing = [name for name in named if not list(root.glob(name))]
    assert named and not missing
    folders = tuple(name for name in named if name.endswith("/"))
    for file in (root / "dbloss").rglob("*.py"):
        path = file.relative_to(root).as_posix()
        assert path in named or path.startswith(folders), path


@pytest.fixture
def house(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("house")


def test_the_picture_of_the_house_is_what_the_imports_give(house):
    found = house.measure()
    assert not found.rising  # no circle, not even of what a function imports when it runs
    drawn = house.draw(found)
    assert house.PICTURE.read_text("utf-8") == drawn, "run python docs/house.py"


def test_rooms_floors_and_circles_are_found(house, tmp_path):
    """A house of five rooms: `top` imports `b`, and that imports `low`, which calls `top`."""
    files = {
        "__init__.py": '"""Names."""',
        "top.py": "from dbloss.b import one\nfrom dbloss import low",
        "b/__init__.py": '"""Two: here."""',
        "b/one.py": "if TYPE_CHECKING:\n    import dbloss.top\nelse:\n    import dbloss.low",
        "b/__main__.py": "import dbloss.top",  # a command, which is no part of b
        "low.py": "def call():\n    import dbloss.top",
    }
    for name, text in files.items():
        (tmp_path / "dbloss" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dbloss" / name).write_text(text, "utf-8")
    found = house.measure(tmp_path)
    command = {"__main__": "The commands, python -m dbloss and those of its parts"}
    assert found.floors == [{"__init__": "Names", "low": ""}, {"b": "Two"}, {"top": ""}, command]
    assert found.arrows == {
        *(("top", "b"), ("top", "low"), ("b", "low"), ("low", "top"), ("__main__", "top"))
    }
    assert found.rising == {("low", "top")}
    (tmp_path / "dbloss" / "low.py").write_text("import dbloss.b", "utf-8")
    with pytest.raises(ValueError, match="nodes are in a cycle"):
        house.measure(tmp_path)


CHINESE_OF = {
    README: CHINESE,
    **{DOCS / page.name: page for page in sorted((DOCS / "zh").glob("*.md"))},
}
both_languages = pytest.mark.parametrize(
    ("english", "chinese"), CHINESE_OF.items(), ids=lambda page: page.relative_to(DOCS.parent)
)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r'(?<!\S)# .*|""".*?"""')


@both_languages
def test_both_languages_show_the_same_blocks(english, chinese):
    """But for the comments, which are translated."""
    blocks, theirs = (FENCED.findall(page.read_text("utf-8")) for page in (english, chinese))
    assert blocks or english.name in ("index.md", "after-migration.md")
    assert [COMMENT.sub("#", block) for block in theirs] == [
        COMMENT.sub("#", block) for block in blocks
    ]
    comments = [comment for block in theirs for comment in COMMENT.findall(block)]
    assert not [text for text in comments if text.isascii() and re.search("[a-z] [a-z]", text)]


def _pieces(page):
    """Return the headings, paragraphs, items, pictures and rows of tables, in order."""
    text = re.sub(r'<a id=".+?"></a>\n| \{ #\S+ \}', "", page.read_text("utf-8"))
    return re.split(r"\n\n+|\n(?=- |\|)", FENCED.sub("", text).strip())


def _facts(piece, page, translated):
    return {
        "kind": re.match(r"#+ |- |\||!\[|", piece)[0],
        "bars": piece.count("|"),
        "numbers": sorted(re.findall(r"(?<![\w.])-?\d+(?:[.,]\d+)*(?:e-?\d+)?", piece, re.ASCII)),
        "code": {" ".join(code.split()) for code in re.findall(r"`(.+?)`", piece, re.DOTALL)},
        "links": sorted(_aim(link, page, translated) for link in re.findall(r"\]\((.+?)\)", piece)),
    }


def _aim(link, page, translated):
    """Return where a link goes, to the page in the other language where there is one."""
    if "://" in link:
        return re.sub(r"(?<=\.cn)/en", "", link)
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return f"{translated.get(target, target)}#{anchor}"


@both_languages
def test_both_languages_state_the_same(english, chinese):
    """A number, name, link or row that changes in one has to change in the other."""
    pieces, theirs = _pieces(english), _pieces(chinese)
    there, back = (
        os.path.relpath(b, a.parent) for a, b in [(english, chinese), (chinese, english)]
    )
    assert pieces.pop(1) == f"English | [简体中文]({there})"
    assert theirs.pop(1) == f"[English]({back}) | 简体中文"
    for one, other in zip(pieces, theirs):
        facts = _facts(one, english, CHINESE_OF)
        assert _facts(other, chinese, {}) == facts, f"{one}\n\n{other}"
    assert len(theirs) == len(pieces)


chinese_pages = pytest.mark.parametrize(
    "page", CHINESE_OF.values(), ids=lambda page: page.relative_to(DOCS.parent).as_posix()
)


@chinese_pages
def test_links_to_pages_in_english_say_so(page):
    """With "（英文）" behind the link, or "，英文" at the end of what the link is in."""
    english = re.compile(r"\.(md|cff)$|//dbloss\.github\.io/dbloss/(?!zh/)")
    for piece in _pieces(page)[2:]:
        for link in re.finditer(r"\]\(([^)#]*)[^)]*\)", piece):
            rest = piece[link.end() :]
            target = (page.parent / link[1]).resolve()
            if english.search(link[1]) and target not in CHINESE_OF.values():
                assert re.match(r"（英文|[^（）。；]*，(均为)?英文", rest), piece
            else:
                assert not rest.startswith("（英文"), piece


@chinese_pages
def test_chinese_pages_have_the_words_of_the_field(page):
    prose = FENCED.sub("", page.read_text("utf-8"))
    words = {
        "(?<![半合])精度": "精确率",
        "(?<!近似)二值图": "近似二值图",
        "(?<!随机)种子": "随机种子",
        "照片": "图像、自然场景图像",
        "从背景开始": "以全背景初始化",
    }
    assert not {good for bad, good in words.items() if re.search(bad, prose)}
    for phrase in re.findall(r"\*\*(?!`)(.+?)\*\*", prose):
        assert len(re.findall("[\u4e00-\u9fff]", phrase)) <= 10, phrase  # bold is for a few words


# What several pages state, with where each has it. A group of an expression is a figure.
SHARED = {
    "a step of DiceLoss": [
        ("README.md", r"\*\*Fast\.\*\* ([\d.]+) ms .*? take ([\d.]+)\."),
        ("docs/speed.md", r"\| `DiceLoss` \| (?P<b>[\d.]+) ms \| (?P<a>[\d.]+) ms"),
    ],
    "the score of 300 boxes": [
        ("docs/score.md", r"\| 300 \| ([\d.]+) s \| ([\d.]+) ms \| ([\d.]+) x"),
        ("docs/migration.md", r"of 300 boxes .*?\| ([\d.]+) s \| ([\d.]+) ms \| ([\d.]+) x"),
    ],
    "the score of 100 boxes": [
        ("docs/score.md", r"\| 100 \| ([\d.]+) s \| ([\d.]+) ms \| ([\d.]+) x"),
        ("docs/migration.md", r"of 100 boxes .*?\| ([\d.]+) s \| ([\d.]+) ms \| ([\d.]+) x"),
    ],
    "compiling": [
        (f"docs/{page}.md", r"(\d+) to\s(\d+) seconds.*?\b(0\.\d)")
        for page in ("running", "troubleshooting")
    ],
    "a step without numba": [
        (f"docs/{page}.md", r"(\d+) to\s(\d+) times as long on 8 images")
        for page in ("troubleshooting", "known-limits")
    ],
    "configurations run through PaddleOCR's code": [
        ("README.md", r"(\d+) configurations"),
        ("docs/migration.md", r"The (\d+) configurations in"),
        ("docs/known-limits.md", r"(\d+) configurations of the loss"),
        ("CONTRIBUTING.md", r"each of (\d+) cases of `DBLoss`"),
    ],
    "BCELoss and the default from scratch": [
        ("docs/which-loss.md", r"`BCELoss` has an hmean of ([\d.]+),\s.*?default it has ([\d.]+)"),
        (
            "docs/loss-study.md",
            r"\| `DiceLoss` \|  \|(?: \S+ \|){2} (?P<b>[\d.]+) .*?"
            r"\| `BCELoss` \|.*?\|(?: \S+ \|){2} (?P<a>[\d.]+)",
        ),
    ],
    "Tversky from trained weights, three seeds": [
        ("docs/finetuning-study.md", r"by ([\d.]+) points in the mean at"),
        ("docs/finetuning.md", r"has ([\d.]+) points after 720 steps"),
    ],
    "Tversky after 720 steps, and calibrated": [
        ("docs/finetuning.md", r"that is (?P<b>[\d.]+) points .*? alone is (?P<a>[\d.]+)\s"),
        ("docs/which-loss.md", r"is \[(?P<a>[\d.]+) points .*?, and (?P<b>[\d.]+) together"),
        ("docs/zh/which-loss.md", r"\[高 (?P<a>[\d.]+) 个.*?则高 (?P<b>[\d.]+) 个"),
    ],
}


def _figures(page, expression):
    text = (README.parent / page).read_text("utf-8")
    found = re.search(expression, text, re.DOTALL)
    assert found, f"{page} no longer has {expression}: where does it state this now?"
    return [found[name] for name in sorted(found.groupdict())] or list(found.groups())


def _same(one, other):
    """Tell whether two figures are the same, rounded as the shorter is."""
    digits = min(len(number.partition(".")[2]) for number in (one, other))
    return abs(float(one) - float(other)) <= 0.5001 * 10**-digits * (one != other)


@pytest.mark.parametrize("claim", SHARED)
def test_a_figure_is_the_same_on_all_pages(claim):
    first, *others = [_figures(*place) for place in SHARED[claim]]
    for figures in others:
        assert len(figures) == len(first)
        assert all(map(_same, first, figures)), (first, figures)


_TRAININGS = {  # what is trained, and for how many steps, below a heading
    "After 720 steps": ("ppocrv4", "720"),
    "After 2,160 steps": ("ppocrv4", "2160"),
    "A second network": ("ppocrv3", "720"),
    "What was tried in 240 steps": ("ppocrv4", "240"),
    "Rates, and other forms of the loss": ("ppocrv4", "240"),
    "From scratch": ("small", "2000"),
}


def _scores_in_tables(page):
    """Yield the network, steps, loss, seed, limits and scores of each row of a training."""
    for section in re.split(r"^## ", page.read_text("utf-8"), flags=re.MULTILINE):
        heading, loss = section.partition("\n")[0], ""
        table = r"^\| ?(.*?) ?\| (\d+) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|"
        for name, seed, *numbers in re.findall(table, section, re.MULTILINE):
            loss = name.replace("*", "").replace("`", "") or loss
            limits = "calibrated" if "calibrated" in loss else "PaddleOCR"
            yield *_TRAININGS[heading], re.split("[ ,]", loss)[0], seed, limits, *numbers


@pytest.mark.parametrize("page", ["finetuning.md", "finetuning-study.md"])
def test_scores_of_fine_tuning_are_those_of_the_csv(page):
    found = {}
    with (DOCS / "finetuning.csv").open() as file:
        for row in csv.DictReader(file):
            keys = ("network", "steps", "loss", "seed", "limits", "commit")
            numbers = found.setdefault(tuple(row[key] for key in keys), {})
            for what in ("precision", "recall", "hmean"):
                numbers[row["pages"], what] = float(row[what])
    wanted = [("test", "precision"), ("test", "recall")]
    wanted += [(pages, "hmean") for pages in ("test", "A", "B", "held out")]
    said = list(_scores_in_tables(DOCS / page))
    assert len(said) > 20
    for *training, precision, recall, hmean, a, b, held_out in said:
        numbers = [float(x) for x in (precision, recall, hmean, a, b, held_out)]
        assert any(
            all(abs(scores.get(key, -1) - x) < 5.6e-4 for key, x in zip(wanted, numbers))
            for key, scores in found.items()
            if key[:-1] == tuple(training)
        ), (training, numbers)


def test_hmean_is_the_harmonic_mean_wherever_it_is_explained():
    for page in [*README.parent.glob("*.md"), *DOCS.glob("*.md")]:
        text = " ".join(page.read_text("utf-8").split())
        for said in re.findall(r"[^.]*mean of (?:both|precision)[^.]*", text):
            assert "harmonic mean" in said, (page, said)


def test_the_versions_of_python_that_are_claimed_are_those_tested():
    project = (README.parent / "pyproject.toml").read_text("utf-8")
    claimed = set(re.findall(r"Python :: (3\.\d+)", project))
    page = (DOCS / "running.md").read_text("utf-8")
    tested = set(re.findall(r"3\.1\d(?=,| \|)", page.partition("## Versions tested")[2]))
    assert claimed == {version for version in tested if version.startswith("3.1")}
