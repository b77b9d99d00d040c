"""Plans, runs, resumes and reports a study: a matrix of arms, labelled sets and seeds.

    morphojax study --config=study_synthetic --plan
    morphojax study --config=study_synthetic
    morphojax study --config=study_synthetic --only=arm=scratch --workers=2
    morphojax study --config=study_synthetic --report

Without --plan or --report it runs what is not done, and then reports. It can be stopped and started
at any time, on any machines that share the study's folder. Keys of the config are set as
--config.KEY=VALUE. Exit codes: 0 all is done, 1 not all jobs are, 2 a wrong config or flag, 75
stopped by a signal.
"""

import argparse
import sys
from collections.abc import Sequence

from morphojax import flags
from morphojax import jobs as cluster


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("study", __doc__, allow_abbrev=False)
    made.add_argument("--config", required=True, help="the study: a shipped config such as study_synthetic, or a file")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="print the cells, what is done, and the cost of the rest")
    what.add_argument("--report", action="store_true", help="report what is done")
    what.add_argument("--worker", metavar="I/N", help="run cells on the I-th of N parts of the CPUs; no report")
    made.add_argument("--only", action="append", default=[], metavar="AXIS=VALUE,...", help="these cells alone")
    made.add_argument("--workers", type=int, default=1, metavar="N", help="number of workers (default: 1)")
    made.add_argument("--launcher", choices=("local", "submitit"), default="local", help="where the workers run")
    made.add_argument("--slurm", metavar="KEY=VALUE,...", help=f"with submitit: among {', '.join(cluster.OPTIONS)}")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options, keys = parser().parse_known_args(argv)
    options.keys = keys
    return flags.run("analysis.study.command", options)


if __name__ == "__main__":
    sys.exit(main())
