"""Trains the task of a config: pretraining, segmentation or a probe.

    python -m morphojax.main --config=configs/pretrain_sax.py
    python -m morphojax.main --config=configs/segment_sax.py --config.init_from=runs/pretrain_sax
    python -m morphojax.main --config=configs/segment_sax.py --describe

Any key of the config can be set on the command line, such as
--config.table.groups=-cardiac_morphometric.
The run is written to config.workdir. The same command resumes a run that was stopped.
Exit codes: see `morphojax/train/processes.py`.
"""

import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from morphojax.train import processes

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file in configs/.", lock_config=True)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the processes of a cluster (SLURM, Open MPI and TPU pods are recognised); set by launch/.",
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where no cluster is recognised.")
PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes, where no cluster is recognised.")
DESCRIBE = flags.DEFINE_bool("describe", False, "Print a table of the model and the cost of a step, and exit.")
PROCESS = flags.DEFINE_integer("process", None, "This process's number, where no cluster is recognised.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; keys of the config are set as --config.KEY=VALUE")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # orbax logs every file at INFO
    if not DISTRIBUTED.value:
        return _run()
    processes.join(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    code = processes.FAILED
    try:
        code = _run()
    except Exception:
        traceback.print_exc()
    finally:
        if code not in (processes.COMPLETE, processes.STOPPED):
            processes.leave(code)
    return code


def _run() -> int:
    """Returns the exit code."""
    # Imported after the processes have joined: JAX refuses to join them once a device has been
    # used.
    from morphojax.tasks import describe, experiment

    try:
        if DESCRIBE.value:
            print(describe.describe(CONFIG.value))
            return processes.COMPLETE
        return processes.COMPLETE if experiment.run(CONFIG.value) else processes.STOPPED
    except Exception as error:
        logging.debug("details", exc_info=True)
        if processes.is_loss_of_another(error):
            print(f"error: another process of the run is gone, its log says why ({error})", file=sys.stderr)
            return processes.FAILED
        if not isinstance(error, experiment.EXPECTED):
            raise
        print(f"error: {error}", file=sys.stderr)
        return processes.REFUSED


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
