"""Stands in for a training or scoring: python -m tests.analysis.study.fake RUN KIND [FOLDER].

KIND: train, train_cell, score, fail, or hang (until a signal, then exit code 75).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(run: Path, kind: str, folder: Path | None = None) -> int:
    (folder or run).mkdir(parents=True, exist_ok=True)
    with (folder or run).joinpath("calls").open("a") as file:
        file.write(f"{kind} {run.name}\n")
    run.mkdir(parents=True, exist_ok=True)
    if kind == "fail":
        print("some progress\nerror: config.steps=0: give a number", file=sys.stderr)
        return 2
    if kind == "hang":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
        (run / "hangs").touch()
        time.sleep(60)
    if kind == "score":
        (run / "evaluation").mkdir(exist_ok=True)
        header = "subject,index,plane,phase,structure,dice"
        (run / "evaluation" / "scores_test.csv").write_text(f"{header}\nx,0,sax,ED,lv_cavity,0.5\n")
        (run / "evaluation" / "summary_test.csv").touch()
    else:
        for name in ("config.json", "environment.json", "preprocessing.json"):
            (run / name).write_text(json.dumps({}))
        (run / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
        (run / "checkpoints" / "1" / "digests.json").write_text("{}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], *map(Path, sys.argv[3:])))
