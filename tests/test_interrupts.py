"""Ctrl-C, in processes of their own."""

import signal
import subprocess
import sys
import time

from morphojax import interrupts
from morphojax.exit_codes import INTERRUPTED
from tests.processes import ROOT

BEGIN = """
import hashlib, multiprocessing, sys, time
from morphojax import flags, interrupts
interrupts.GRACE_SECONDS = 0.2
def deaf():  # some minutes in C, where Python cannot react to a signal
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
def patient():
    print("begun", flush=True)
    time.sleep(600)
def finishing():
    import signal
    stop = []
    signal.signal(signal.SIGINT, lambda *_: stop.append(1))
    with interrupts.finishes("saving first"):
        print("begun", flush=True)
        while not stop:
            time.sleep(0.01)
        time.sleep(0.5)  # it saves
        if "again" in sys.argv:
            deaf()
    return 75
def with_child():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=False)
    child.start()
    print(child.pid, flush=True)
    deaf()
"""


def run(work: str, *arguments: str, interrupts: int = 1) -> tuple[int, str, float]:
    """Exit code, standard error, and seconds from the last Ctrl-C to the end."""
    command = [sys.executable, "-c", f"{BEGIN}\nsys.exit(flags.guard({work}))", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(interrupts):
        assert process.stdout.readline().strip()
        time.sleep(0.05)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors, time.monotonic() - start


def test_python_and_a_library_are_both_interrupted():
    for work in ("patient", "deaf"):
        code, errors, seconds = run(work)
        assert (code, errors) == (INTERRUPTED, f"{interrupts.KEPT}\n"), work
        assert seconds < 30


def test_work_that_finishes_by_itself_says_so_at_once():
    code, errors, _ = run("finishing")
    assert (code, errors) == (75, "saving first\n")


def test_a_second_interrupt_ends_at_once():
    code, errors, _ = run("finishing", "again", interrupts=2)
    assert (code, errors) == (INTERRUPTED, f"saving first\n{interrupts.KEPT}\n")


def test_worker_processes_end_too():
    command = [sys.executable, "-c", f"{BEGIN}\nsys.exit(flags.guard(with_child))"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)  # it would wait for the child, which holds the pipes
    assert process.returncode == INTERRUPTED
    still_there = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True).stdout
    assert still_there.strip() in ("", "Z")
