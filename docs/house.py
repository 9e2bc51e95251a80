"""Draws the rooms of the package over those they import: `python docs/house.py` writes house.svg.

A room is a folder of `dbloss/`, or a file beside them; the commands, `__main__`, are one room. An
arrow goes from a room to one that it imports, dashed where only functions do so when they run; a
room stands one floor above the highest of these. Imports for type checkers are no arrows. An arrow
that follows from others is counted and not drawn. What a function imports from above, in a circle,
is a red arrow.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PICTURE = Path(__file__).with_name("house.svg")
_WIDTH, _HEIGHT, _ACROSS, _UP, _MARGIN = 168, 62, 184, 118, 16


class House(NamedTuple):
    """The rooms of each floor, from the ground up, with what each is for, and the arrows."""

    floors: list[dict[str, str]]
    arrows: set[tuple[str, str]]
    later: set[tuple[str, str]]  # those of them that are there when a function runs
    rising: set[tuple[str, str]]  # those of these that would close a circle

    def __str__(self) -> str:
        rooms = sum(map(len, self.floors))
        rising = ", ".join(f"{a} to {b}" for a, b in sorted(self.rising)) or "none"
        return (
            f"{rooms} rooms on {len(self.floors)} floors, {len(self.arrows)} arrows;"
            f" in a circle: {rising}"
        )


def measure(root: Path = ROOT) -> House:
    """Return the house of a checkout; a circle of imports is a `graphlib.CycleError`."""
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((root / "dbloss").rglob("*.py"))
    }
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in files.items()}
    says: dict[str, str] = {}
    for name, tree in trees.items():
        paragraph = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
        says.setdefault(_room(name), re.split(r"[:;.](?:\s|$)", paragraph)[0])
    if "__main__" in says:
        says["__main__"] = "The commands, python -m dbloss and those of its parts"
    found: dict[bool, set[tuple[str, str]]] = {False: set(), True: set()}
    for name, tree in trees.items():
        for target, later in _imports(tree, set(files)):
            if _room(target) != _room(name):
                found[later].add((_room(name), _room(target)))
    functions = found[True] - found[False]
    arrows, rising = set(found[False]), set[tuple[str, str]]()
    sorter = _sorter(says, arrows)
    for arrow in sorted(functions):
        try:
            sorter = _sorter(says, arrows | {arrow})
            arrows.add(arrow)
        except CycleError:
            rising.add(arrow)
    sorter = _sorter(says, arrows)
    floors = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        sorter.done(*ready)
        floors.append({room: says[room] for room in ready})
    return House(floors, arrows | rising, functions, rising)


def _sorter(rooms: Iterable[str], arrows: set[tuple[str, str]]) -> TopologicalSorter[str]:
    sorter = TopologicalSorter({room: {b for a, b in arrows if a == room} for room in rooms})
    sorter.prepare()
    return sorter


def _room(module: str) -> str:
    """Return the folder of a module, or its own name where it stands beside the folders.

    A `__main__` is a command, wherever it stands: nothing imports it.
    """
    words = [*module.split("."), "__init__"]
    return "__main__" if "__main__" in words else words[1]


def _imports(node: ast.AST, modules: set[str], later: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the modules that are imported, and whether that is inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield from _imports(ast.Module([other], []), modules, later)
            continue
        names = []
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            whole = [f"{child.module}.{alias.name}" for alias in child.names]
            names = [name if name in modules else str(child.module) for name in whole]
        yield from ((name, later) for name in names if name in modules)
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _imports(child, modules, later or inside)


def draw(house: House) -> str:
    """Return the picture, as SVG."""
    widest = max(map(len, house.floors))
    width = widest * _ACROSS + 2 * _MARGIN
    height = len(house.floors) * _UP + 2 * _MARGIN
    centre: dict[str, float] = {}
    floor_of: dict[str, int] = {}
    for floor, rooms in enumerate(house.floors):
        left = (width - len(rooms) * _ACROSS) / 2
        for place, room in enumerate(_by_what_stands_above(house, floor, centre)):
            floor_of[room] = floor
            centre[room] = left + (place + 0.5) * _ACROSS
    top = {room: height - _MARGIN - _HEIGHT - floor * _UP for room, floor in floor_of.items()}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f"<title>{escape(str(house))}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#667"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>',
    ]
    for a, b in sorted(_drawn(house)):
        style = ' stroke-dasharray="5 4"' if (a, b) in house.later else ""
        up = (a, b) in house.rising
        colour = "#c33" if up else "#667"
        start = top[a] if up else top[a] + _HEIGHT
        end = top[b] + _HEIGHT if up else top[b]
        aside = 20 if up else 0  # of an arrow that comes back down
        bend = (end - start) / 2
        parts.append(
            f'<path d="M{centre[a] + aside:.0f} {start:.0f}C{centre[a] + aside:.0f}'
            f" {start + bend:.0f} {centre[b] + aside:.0f} {end - bend:.0f}"
            f' {centre[b] + aside:.0f} {end:.0f}" fill="none"'
            f' stroke="{colour}" stroke-width="1.3"{style} marker-end="url(#tip)"/>'
        )
    for rooms in house.floors:
        for room, what in rooms.items():
            parts += _box(room, what, centre[room] - _WIDTH / 2, top[room])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _by_what_stands_above(house: House, floor: int, centre: dict[str, float]) -> list[str]:
    """Return the rooms of a floor in the order of those below them, so that few arrows cross."""

    def mean(room: str) -> float:
        below = [centre[b] for a, b in house.arrows if a == room and b in centre]
        return sum(below) / len(below) if below else 0

    return sorted(house.floors[floor], key=mean)


def _drawn(house: House) -> set[tuple[str, str]]:
    """Return the arrows without those that follow from others; those that rise all stay."""
    below: dict[str, set[str]] = {}
    for rooms in house.floors:
        for room in rooms:
            direct = {b for a, b in house.arrows - house.rising if a == room}
            below[room] = direct.union(*(below[b] for b in direct))
    return house.rising | {
        (a, b)
        for a, b in house.arrows
        if not any(b in below[c] for d, c in house.arrows - house.rising if d == a)
    }


def _box(room: str, what: str, left: float, top: float) -> list[str]:
    lines = textwrap.wrap(what, 27, max_lines=3, placeholder=" ...")
    texts = [
        f'<text x="{left + 8:.0f}" y="{top + 29 + 12 * row:.0f}" font-size="10.5" fill="#334">'
        f"{escape(line)}</text>"
        for row, line in enumerate(lines)
    ]
    return [
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="5"'
        ' fill="#eef2f8" stroke="#99a"/>',
        f'<text x="{left + 8:.0f}" y="{top + 16:.0f}" font-size="13" font-weight="bold"'
        f' fill="#123">{escape(room)}</text>',
        *texts,
    ]


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    print(found)
    if len(sys.argv) == 1:
        PICTURE.write_text(draw(found), "utf-8")
