#!/usr/bin/env bash
#SBATCH --job-name=morphojax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
# sbatch launch/slurm.sh --config=configs/pretrain_sax.py [--config.KEY=VALUE ...]
# One process per GPU. SIGTERM two minutes before the end saves; the requeued job takes up there.
set -euo pipefail
srun "${PYTHON:-.venv/bin/python}" -m morphojax.main --distributed "$@"
