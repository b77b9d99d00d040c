"""The fuzzer: it notices every kind of failure, its inputs repeat, and readers pass a few inputs.

The full run is `python -m tests.reliability.fuzz` (docs/reliability.md).
"""

import pytest

from tests.reliability import fuzz, targets, worker
from tests.reliability.worker import Limits

SLOW = ("run_json", "checkpoint", "predict")  # they load JAX


@pytest.mark.parametrize("name", [name for name in targets.MODULES if name not in SLOW])
def test_a_few_inputs_of_every_reader(name, tmp_path):
    example = worker.Example(targets.find(name), tmp_path)
    verdicts = [example.judge(0, number, seconds=20) for number in range(12)]
    assert not [(number, v) for number, v in enumerate(verdicts) if v.failed]
    assert verdicts[0].kind == "accepted" and "refused" in {v.kind for v in verdicts}


def test_inputs_depend_on_reader_seed_and_number_alone(tmp_path):
    def written(folder, seed, number):
        example = worker.Example(targets.find("cvi42"), folder)
        example.restore(example.write(seed, 1))
        return [path.read_bytes() for path in example.write(seed, number) if path.is_file()]

    same = written(tmp_path / "a", 0, 5), written(tmp_path / "b", 0, 5)
    assert same[0] == same[1] != written(tmp_path / "c", 1, 5) and same[0] != written(tmp_path / "d", 0, 6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("error", "error"),
        ("hang", "hang"),
        ("reserved", "memory"),
        ("implausible", "implausible"),
        ("warnings", "warnings"),
        ("arithmetic", "warnings"),
        ("lines", "error"),
        ("unnamed", "message"),
    ],
)
def test_a_failure_is_noticed_and_the_next_input_is_read(name, kind, tmp_path):
    example = worker.Example(targets.find(name, "tests.reliability.broken"), tmp_path)
    kinds = [example.judge(0, number, seconds=0.1).kind for number in range(4)]
    assert kinds == ["accepted", "accepted", kind, "accepted"]


@pytest.mark.parametrize(("name", "kind"), [("memory", "memory"), ("crash", "crash")])
def test_a_process_that_dies_or_eats_memory_is_replaced(name, kind, tmp_path):
    limits = Limits(bytes=120 * 2**20)
    result = fuzz.fuzz(name, 0, 4, tmp_path, limits, module="tests.reliability.broken")
    ((found, _), (number, _, count)) = next(iter(result.failures.items()))
    assert (found, number, count, result.accepted, result.inputs) == (kind, 2, 1, 3, 4)
