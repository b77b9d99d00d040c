#!/usr/bin/env bash
# Run this on every host of a TPU pod slice:
#   launch/tpu.sh --config=configs/pretrain_sax.py [--config.KEY=VALUE ...]
# Start it again on every host after an exit code other than 0 and 2: the run resumes.
set -euo pipefail
exec "${PYTHON:-.venv/bin/python}" -m morphojax.main --distributed "$@"
