"""A hook of the site's build: formulas become MathML, which a browser draws without a script."""

import html
import re
from typing import Any

from math_core import LatexToMathML

# What the arithmatex extension leaves: \(...\) in a line, \[...\] on lines of its own.
_FORMULA = re.compile(r'class="arithmatex">\\([(\[])(.*?)\\[)\]]</', re.DOTALL)
_CONVERTER = LatexToMathML()


def on_page_content(content: str, **_: Any) -> str:
    """Return the page with each formula as MathML; a command that is unknown ends the build."""
    return _FORMULA.sub(_formula, content)


def _formula(match: re.Match[str]) -> str:
    latex, block = html.unescape(match[2]), match[1] == "["
    return f'class="formula">{_CONVERTER.convert_with_local_state(latex, displaystyle=block)}</'
