"""An extension of the API page's reader: it takes the section `Example:` for what it is."""

from typing import Any

import griffe


class Examples(griffe.Extension):  # type: ignore[misc]
    """Gives the section the name that griffe knows, so that its code is shown as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
