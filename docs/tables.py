"""A hook of the site's build: each cell of a table knows the name of its column.

On a phone a row is shown as a list, a line for each cell, and the style writes the names before
them (`site/site.css`). Code that is too long for a cell is marked, since the style breaks no other,
and so are numbers, which stay beside their units.
"""

import re
from typing import Any

_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_CELL = re.compile(r"<td(?=[ >])")
_SHORT = re.compile(r"[^>]*>[\d.,/ ]+( ?(\w{1,2}|%))?</td>")
_NUMBER = ' class="number"'


def on_page_content(content: str, **_: Any) -> str:
    """Return the page with the name of its column in each cell, numbers and long code marked."""
    return _TABLE.sub(lambda table: _named(table[0]), content)


def _named(table: str) -> str:
    head, _, body = table.partition("<tbody>")
    names = [_plain(name) for name in re.findall(r"<th[^>]*>(.*?)</th>", head, re.DOTALL)]
    rows = []
    for row in body.split("</tr>"):
        before, *cells = _CELL.split(row)
        named = (
            f'<td data-column="{name}"{_NUMBER * bool(_SHORT.match(cell))}{cell}'
            for name, cell in zip(names, cells)
        )
        rows.append("".join([before, *named]))
    body = "</tr>".join(rows)
    body = re.sub(r"<code>(?=[^<]{28})", '<code class="long">', body)
    return f"{head}<tbody>{body}"


def _plain(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html).replace('"', "&quot;").strip()
