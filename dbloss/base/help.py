"""Tells whether a command is asked for its help alone, which needs neither Paddle nor an extra.

The package is imported before the command `python -m dbloss.labels`, and with it Paddle, for which
`--help` would have to wait a second or two, or fail.
"""

import sys

# While Python looks for the module of `-m`, this stands in the place of its path.
_COMMAND = sys.argv[:1] == ["-m"] and any(word.split(".")[0] == "dbloss" for word in sys.orig_argv)
ALONE = _COMMAND and sys.argv[1:] in (["-h"], ["--help"])

# Here, where nothing has to be imported first.
OF_PADDLEOCR = """\
usage: python -m dbloss.paddleocr PROGRAM [ARGUMENT ...]

Put dbloss in the place of PaddleOCR's labels, loss, boxes and score, then run a program of a
checkout of PaddleOCR as `python PROGRAM ARGUMENT ...` would:

  python -m dbloss.paddleocr tools/train.py -c configs/det/det_mv3_db.yml
"""
