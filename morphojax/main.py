"""Trains the task of a config: pretraining, segmentation or a probe.

    morphojax train --config=pretrain_sax
    morphojax train --config=segment_sax --config.init_from=runs/pretrain_sax
    morphojax train --config=segment_sax --describe

--config is the name of a shipped config (`morphojax configs` lists them) or a file. Any of its keys
can be set on the command line, such as --config.table.groups=-cardiac_morphometric.
The run is written to config.workdir. The same command resumes a run that was stopped.
`python -m morphojax.main` is this command too. Exit codes: 0 complete, 1 failed, 2 refused, 75
stopped by a signal after a checkpoint.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence

from morphojax import flags
from morphojax.exit_codes import COMPLETE, FAILED, REFUSED, STOPPED


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("train", __doc__, allow_abbrev=False)
    made.add_argument("--config", required=True, help="the experiment: a shipped config, or a file")
    made.add_argument(
        "--describe", action="store_true", help="print a table of the model and the cost of a step, and exit"
    )
    made.add_argument("--verbose", action="store_true", help="also print what the libraries log")
    cluster = made.add_argument_group("several processes, set by launch/")
    cluster.add_argument(
        "--distributed", action="store_true", help="join the processes of a cluster (SLURM, Open MPI, TPU pods)"
    )
    cluster.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where no cluster is recognised")
    cluster.add_argument("--processes", type=int, metavar="N", help="their number, where no cluster is recognised")
    cluster.add_argument("--process", type=int, metavar="I", help="this one's number, where no cluster is recognised")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args, keys = parser().parse_known_args(argv)
    _set_up_absl(args.verbose)
    if not args.distributed:
        return flags.guard(lambda: _train(args, keys))
    from morphojax.train import processes

    processes.join(args.coordinator, args.processes, args.process)
    code = FAILED
    try:
        code = flags.guard(lambda: _train(args, keys))
    except Exception:
        traceback.print_exc()
    finally:
        if code not in (COMPLETE, STOPPED):
            processes.leave(code)
    return code


def _set_up_absl(verbose: bool) -> None:
    """grain's worker processes need absl's flags parsed; orbax logs every file at INFO."""
    from absl import flags as absl_flags
    from absl import logging

    absl_flags.FLAGS(["morphojax"])
    logging.set_verbosity(logging.INFO if verbose else logging.WARNING)


def _train(args: argparse.Namespace, keys: Sequence[str]) -> int:
    """Returns the exit code. Raises ValueError for an error that a user can mend."""
    from morphojax.tasks import config_files

    config = config_files.load(args.config)
    config_files.override_from_flags(config, keys)
    # Imported after the processes have joined, and after the cheap checks: JAX refuses to join them
    # once a device has been used.
    from morphojax.tasks import describe, experiment
    from morphojax.train import processes

    try:
        if args.describe:
            print(describe.describe(config))
            return COMPLETE
        return COMPLETE if experiment.run(config) else STOPPED
    except Exception as error:
        if processes.is_loss_of_another(error):
            print(f"error: another process of the run is gone, its log says why ({error})", file=sys.stderr)
            return FAILED
        if isinstance(error, experiment.EXPECTED):
            print(f"error: {error}", file=sys.stderr)
            return REFUSED
        raise


if __name__ == "__main__":
    sys.exit(main())
