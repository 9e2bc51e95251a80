"""What the documents show runs: the examples of the docstrings and the code of the READMEs."""

import doctest
import importlib
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dbloss

README = Path(__file__).parents[1] / "README.md"
CHINESE = README.with_name("README.zh-CN.md")
MODULES = ["dbloss", *(f"dbloss.{module.name}" for module in pkgutil.iter_modules(dbloss.__path__))]


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


PAGES = [
    page
    for page in sorted((README.parent / "docs").glob("*.md"))
    if "```py" in page.read_text("utf-8")
]


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
    page = README.parent / "docs" / "api.md"
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


FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def test_both_readmes_show_the_same_blocks():
    blocks = FENCED.findall(README.read_text("utf-8"))
    assert blocks and FENCED.findall(CHINESE.read_text("utf-8")) == blocks


def _pieces(readme):
    """Return the headings, paragraphs, items, pictures and rows of tables, in order."""
    return re.split(r"\n\n+|\n(?=- |\|)", FENCED.sub("", readme.read_text("utf-8")).strip())


def _facts(piece):
    piece = re.sub(r"\.zh-CN|(?<=\.cn)/en", "", piece)  # links to a page in the other language
    return {
        "kind": re.match(r"#+ |- |\||!\[|", piece)[0],
        "bars": piece.count("|"),
        "numbers": sorted(re.findall(r"(?<![\w.])-?\d+(?:[.,]\d+)*(?:e-?\d+)?", piece, re.ASCII)),
        "code": set(re.findall(r"`(.+?)`", piece, re.DOTALL)),
        "links": sorted(re.findall(r"\]\((.+?)\)", piece)),
    }


def test_both_readmes_state_the_same():
    """A number, name, link or row that changes in one has to change in the other."""
    english, chinese = _pieces(README), _pieces(CHINESE)
    for one, other in zip(english, chinese):
        assert _facts(other) == _facts(one), f"{one}\n\n{other}"
    assert len(chinese) == len(english)
