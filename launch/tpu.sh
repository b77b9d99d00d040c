#!/usr/bin/env bash
# Run this on every host of a TPU pod slice:
#   launch/tpu.sh --config=configs/pretrain_sax.py [--config.KEY=VALUE ...]
set -euo pipefail
exec "${PYTHON:-.venv/bin/python}" -m morphojax.main --distributed "$@"
