# Functions that every experiment sources. A run is resumable, skipped once it is done, and locked while it runs:
# several workers can share an experiment, and any of them can be stopped.
set -euo pipefail
# Ask glibc for huge pages: without them, mapping the large arrays of a step takes an eighth of its time on a CPU.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}

usage() {  # prints the comment at the head of the script
  sed -n '2,/^[^#]/{/^#/p}' "$0"
  exit 1
}

pinned() { CPU=$1; }  # the CPU that this worker uses; empty: any

program() {  # runs a module of morphojax: name of the module, its flags
  ${CPU:+taskset -c "$CPU"} "$PYTHON" -m "morphojax.$1" "${@:2}"
}

locked() {  # name, command: runs the command, unless another worker runs it now
  mkdir -p "$RUNS/locks"
  ( flock --nonblock 9 || exit 0; "${@:2}" ) 9>"$RUNS/locks/$1" </dev/null
}

trained() {  # run directory, flags of main: trains once; another worker that needs the same run waits for it
  mkdir -p "$RUNS/locks"
  (
    flock 8
    [ -e "$1/done" ] && exit
    program main "${@:2}" --config.workdir="$1"
    touch "$1/done"
  ) 8>"$RUNS/locks/trained_$(basename "$1")" </dev/null
}
