"""Runs README.md from top to bottom, as a reader does who follows it to the letter.

    python .ci/readme.py cpu        in a fresh environment, whose Python runs this
    python .ci/readme.py gpu        in one that holds a wheel named paddlepaddle-gpu

The commands, in blocks of `bash` and between backticks, run in a shell in the current folder, which
is a checkout; the blocks of `python` run in this process, one after the other in one namespace. A
command that says for whom it is runs for that reader alone. In the end the reader of a GPU wheel
must still have that wheel and no other.

What the reader has is made here: a photograph and its label file. What is not run as it stands:

- the tests run whole for the one reader, and are only collected for the other, which imports them;
- the training example takes 3 steps in place of 700;
- what is timed on a GPU is left out, and so are PaddleOCR's program and the line of its file, the
  block of `diff`, which tests/test_paddleocr.py and tests/test_documents.py run beside stand-ins.
"""

import importlib
import os
import re
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import distributions
from pathlib import Path

BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```$|`((?:pip|python) [^`]+)`", re.DOTALL | re.MULTILINE)
ONLY = {"cpu": ('".[cpu]"', "# with the CPU wheel"), "gpu": ("# beside a GPU wheel",)}
SHORTER = {
    "cpu": {"train_text_detector.py": " --steps 3"},
    "gpu": {"train_text_detector.py": " --steps 3", "pytest": " --collect-only -qq"},
}
LEFT_OUT = ("--device gpu", "tools/train.py")


def main(reader: str) -> None:
    """Run all that is for the reader; the first failure ends it."""
    (other,) = {*ONLY} - {reader}
    names: dict[str, object] = {}
    done = set()
    for kind, block, inline in BLOCKS.findall(Path("README.md").read_text("utf-8")):
        if kind == "python":
            print(f"\n-- python\n{block}", flush=True)
            importlib.invalidate_caches()
            exec(compile(block, "README.md", "exec"), names)
        for line in [inline] if inline else block.splitlines() if kind == "bash" else []:
            command = " ".join(line.split())
            if command in done or any(mark in command for mark in (*ONLY[other], *LEFT_OUT)):
                continue
            done.add(command)
            run(command, SHORTER[reader])
    wheels = {each.name for each in distributions() if each.name.startswith("paddlepaddle")}
    assert wheels == {"paddlepaddle" if reader == "cpu" else "paddlepaddle-gpu"}, wheels


def run(command: str, shorter: dict[str, str]) -> None:
    """Run a command in a shell whose first Python is this one."""
    if "Label.txt" in command:
        make_labels()
    command = command.partition("  #")[0].partition(" # ")[0]
    for end, options in shorter.items():
        if command.endswith(end):
            command += options
    print(f"\n-- {command}", flush=True)
    start = time.monotonic()
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PIP_QUIET": "1"}
    subprocess.run(["bash", "-ec", command], check=True, env=environment)
    print(f"-- {time.monotonic() - start:.0f} s", flush=True)


def make_labels() -> None:
    """Write a photograph and its label file, as those of the tests."""
    sys.path.insert(0, "tests")
    from label_files import write_label_file

    write_label_file(Path("Label.txt"), count=1)
    Path("Label_0.png").rename("photograph.png")
    labels = Path("Label.txt").read_text("utf-8")
    Path("Label.txt").write_text(labels.replace("Label_0.png", "photograph.png"), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
