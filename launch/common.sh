# Sourced by the experiments: where they run, and what a run is. A run is resumable, skipped when done, and locked while it goes, so that
# any number of workers may share an experiment and any may be stopped.
set -euo pipefail
# glibc asks for huge pages: the large arrays of a step are else mapped anew, page by page, an eighth of the time on a CPU.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}

usage() {  # what stands at the head of the script
  sed -n '2,/^[^#]/{/^#/p}' "$0"
  exit 1
}

pinned() { CPU=$1; }  # the CPU that a worker keeps to; nothing: any

program() {  # module of morphojax, its flags
  ${CPU:+taskset -c "$CPU"} "$PYTHON" -m "morphojax.$1" "${@:2}"
}

locked() {  # name, command: by whichever worker comes first
  mkdir -p "$RUNS/locks"
  ( flock --nonblock 9 || exit 0; "${@:2}" ) 9>"$RUNS/locks/$1" </dev/null
}

trained() {  # run directory, flags of main: once, and whoever needs the same run meanwhile waits for it
  mkdir -p "$RUNS/locks"
  (
    flock 8
    [ -e "$1/done" ] && exit
    program main "${@:2}" --config.workdir="$1"
    touch "$1/done"
  ) 8>"$RUNS/locks/trained_$(basename "$1")" </dev/null
}

segmented() {  # run directory, flags of main: trained, and scored on the test subjects
  [ -e "$1/evaluation/summary_test.json" ] && return
  program main "${@:2}" --config.workdir="$1"
  program evaluate --run="$1" --split=test --checkpoint=last
}
