"""Tells whether a command is asked only for its help, which needs neither Paddle nor an extra.

`python -m dbloss.labels` imports the package first, and that would import Paddle: `--help` would
wait for it for a second or two, or fail without it.
"""

import sys

# While Python looks for the module of `-m`, `sys.argv[0]` is "-m" in place of its path.
_COMMAND = sys.argv[:1] == ["-m"] and any(word.split(".")[0] == "dbloss" for word in sys.orig_argv)
ALONE = _COMMAND and sys.argv[1:] in (["-h"], ["--help"])

# In this module, since it imports nothing else.
OF_PADDLEOCR = """\
usage: python -m dbloss.paddleocr PROGRAM [ARGUMENT ...]

Put dbloss in the place of PaddleOCR's labels, loss, boxes and score, then run a program of a
checkout of PaddleOCR as `python PROGRAM ARGUMENT ...` would:

  python -m dbloss.paddleocr tools/train.py -c configs/det/det_mv3_db.yml
"""
