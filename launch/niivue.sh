#!/usr/bin/env bash
# Renews NiiVue, the viewer in the pages of `morphojax predict --view`: morphojax/inference/assets/niivue.umd.js.gz, its
# version and checksum in niivue.json, and LICENSES.txt of NiiVue and of the packages that its file contains.
#
#   launch/niivue.sh VERSION      of https://www.npmjs.com/package/@niivue/niivue, such as 0.69.0; needs npm
#
# Afterwards run: python -m pytest tests/inference/test_viewer.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -ne 1 ]; then
  sed -n '2,/^[^#]/{/^#/p}' "$0"
  exit 2
fi

assets=$PWD/morphojax/inference/assets
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --ignore-scripts "@niivue/niivue@$1"
gzip -9nc node_modules/@niivue/niivue/dist/niivue.umd.js >"$assets/niivue.umd.js.gz"
printf '{"package": "@niivue/niivue", "version": "%s", "file": "dist/niivue.umd.js", "sha256": "%s"}\n' \
  "$1" "$(gunzip -c "$assets/niivue.umd.js.gz" | sha256sum | cut -d' ' -f1)" >"$assets/niivue.json"
{
  printf '== @niivue/niivue %s\n\n' "$1"
  cat "$assets/LICENSE.niivue.txt" # the npm package has no licence file
  find node_modules -iname 'license*' -not -path '*/@rollup/*' | sort | while read -r file; do
    printf '\n== %s\n\n' "$(dirname "${file#node_modules/}")"
    cat "$file"
  done
} >"$assets/LICENSES.txt"
ls -l "$assets"
