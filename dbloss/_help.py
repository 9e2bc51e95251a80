"""Tells whether a command is asked for its help alone, which needs neither Paddle nor an extra.

The package is imported before the command `python -m dbloss.labels`, and with it Paddle, for which
`--help` would have to wait a second or two, or fail.
"""

import sys

# While Python looks for the module of `-m`, this stands in the place of its path.
_COMMAND = sys.argv[:1] == ["-m"] and any(word.split(".")[0] == "dbloss" for word in sys.orig_argv)
ALONE = _COMMAND and sys.argv[1:] in (["-h"], ["--help"])
