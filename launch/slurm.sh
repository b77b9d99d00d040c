#!/usr/bin/env bash
#SBATCH --job-name=morphojax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
# sbatch launch/slurm.sh --config=configs/pretrain_sax.py [--config.KEY=VALUE ...]
# One process per GPU. Two minutes before the end SIGTERM makes the run save and stop, with exit code 75. --requeue only
# allows a requeue: SLURM itself requeues after preemption or a lost node, not at the time limit. So the job asks for it.
set -euo pipefail
status=0
srun "${PYTHON:-.venv/bin/python}" -m morphojax.main --distributed "$@" || status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
