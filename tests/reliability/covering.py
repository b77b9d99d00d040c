"""Which tests run which line of the package, and how long each test takes.

    PYTHONPATH=FOLDER_OF_COVERAGE python -m tests.reliability.covering map.json [TESTS ...]

Runs the tests in one process under coverage.py (pip install coverage).
"""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class _Contexts:
    """A pytest plugin: tells coverage which test runs, and whether its fixtures do."""

    def __init__(self, measured: Any) -> None:
        self.measured, self.seconds = measured, defaultdict(float)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item):
        yield from self._timed(item, "setup")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item):
        yield from self._timed(item, "call")

    def _timed(self, item: pytest.Item, stage: str):
        self.measured.switch_context(f"{item.nodeid}|{stage}")
        began = time.monotonic()
        yield
        self.seconds[item.nodeid] += time.monotonic() - began


def main(output: str, *tests: str) -> int:
    """Writes {"seconds": {test: s}, "lines": {file: {line: [test, ...]}}}.

    A line that fixtures run belongs to all tests of the file: any of them may look at the result.
    """
    import coverage

    measured = coverage.Coverage(data_file=None, source=["morphojax"], config_file=False)
    measured.start()
    plugin = _Contexts(measured)
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], plugins=[plugin])
    measured.stop()
    of_file = defaultdict(list)
    for test in plugin.seconds:
        of_file[test.split("::")[0]].append(test)
    lines: dict[str, dict[int, list[str]]] = {}
    data = measured.get_data()
    for file in data.measured_files():
        lines[str(Path(file).relative_to(ROOT))] = {
            line: sorted({test for context in contexts for test in tests_of(context, of_file)})
            for line, contexts in data.contexts_by_lineno(file).items()
        }
    Path(output).write_text(json.dumps({"seconds": plugin.seconds, "lines": lines}))
    return int(code)


def tests_of(context: str, of_file: dict[str, list[str]]) -> list[str]:
    """The tests that may see what ran in a context of `_Contexts`."""
    test, _, stage = context.rpartition("|")
    return of_file[test.split("::")[0]] if stage == "setup" else [test] if test else []


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
