#!/usr/bin/env bash
#SBATCH --job-name=morphojax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
# sbatch launch/slurm.sh --config=configs/pretrain_sax.py [--config.KEY=VALUE ...]
# One process per GPU. Two minutes before the end SIGTERM makes the run save and stop; the requeued job resumes there.
set -euo pipefail
srun "${PYTHON:-.venv/bin/python}" -m morphojax.main --distributed "$@"
