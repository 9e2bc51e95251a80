"""What each process of test_score.py computes: the score of its images, and of all processes'.

Paddle's launcher starts it with a folder, and each process saves its results there by its rank.
"""

import faulthandler
import json
import sys
from pathlib import Path

from helpers import DATA
from paddle import distributed
from programs import HANGS

from dbloss.score import Hmean

SIZE = 2


def shares(images):
    """The images of each process, of which the first has more."""
    return images[: len(images) // 3 * 2], images[len(images) // 3 * 2 :]


def main():
    # A process that waits for another in vain shall say where, and end: the launcher ends the rest.
    faulthandler.dump_traceback_later(HANGS - 60, exit=True)
    distributed.init_parallel_env()
    rank = distributed.get_rank()
    groups = [distributed.new_group([other]) for other in range(SIZE)]
    metrics = {
        "together": Hmean(all_processes=True),
        "alone": Hmean(),
        "group of one": Hmean(all_processes=True, group=groups[rank]),
        "outsider": Hmean(all_processes=True, group=groups[1 - rank]),
    }
    for image in shares(json.loads((DATA / "paddleocr_score.json").read_text()))[rank]:
        for metric in metrics.values():
            metric.update(image["found"], image["truth"], image["ignored"])
    results = {}
    try:
        metrics.pop("outsider").accumulate()
    except RuntimeError as error:
        results["outsider"] = str(error)
    for name, metric in metrics.items():
        results[name] = metric.accumulate()
    results["together again"] = metrics["together"].accumulate()
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
