"""Trains the task of a config: pretraining, segmentation or a probe.

    python -m morphojax.main --config=configs/pretrain_sax.py
    python -m morphojax.main --config=configs/segment_sax.py --config.init_from=runs/pretrain_sax
    python -m morphojax.main --config=configs/segment_sax.py --describe

Any key of the config can be set on the command line, such as
--config.table.groups=-cardiac_morphometric.
The run is written to config.workdir. The same command resumes a run that was stopped.
"""

import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

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
    if DISTRIBUTED.value:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    # Imported after the processes have joined: JAX refuses to join them once a device has been
    # used.
    from morphojax.tasks import describe, experiment

    try:
        if DESCRIBE.value:
            print(describe.describe(CONFIG.value))
            return 0
        return 0 if experiment.run(CONFIG.value) else 1
    except experiment.EXPECTED as error:
        logging.debug("details", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
