"""The page of the commands has every option that there is, in the words of `--help`."""

import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from dbloss.labels import __main__ as labels
from dbloss.plot import __main__ as plot

PAGE = (Path(__file__).parents[1] / "docs" / "commands.md").read_text("utf-8")


def rows(parser):
    """The table of a parser's options, but for that of every command, `--help`."""
    for action in parser._actions:
        if action.dest == "help":
            continue
        values = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
        value = " ".join(values) + (" ..." if action.nargs == "+" else "")
        names = [f"`{name} {value}`" for name in action.option_strings] or [f"`{value}`"]
        yield f"| {', '.join(names)} | {action.help} |"


@pytest.mark.parametrize("parser", [labels._parser(), plot._parser()], ids=["labels", "plot"])
def test_the_page_has_every_option(parser):
    _, section = PAGE.split(f"## `{parser.prog}`")
    section = section.split("\n## ")[0]
    table = [line for line in section.splitlines() if re.match(r"\| `", line)]
    assert table == list(rows(parser))
