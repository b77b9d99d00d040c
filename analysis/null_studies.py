"""How often does a study claim an effect where there is none?

    python -m analysis.null_studies --studies=40 --output=runs/null_studies

Repeats configs/study_null.py with other seeds: pretraining against columns that say nothing about
the heart, right against shuffled rows. Prints the claims, and writes them to null_studies.csv: how
many intervals exclude 0, and in how many Wilcoxon's p is below 0.05. It runs in this process, and
can be stopped and started again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import pandas as pd
from scipy import stats

from analysis.study import jobs, report, spec, state, tables, worker
from analysis.study.errors import StudyError
from analysis.study.inline import Inline
from morphojax.data.store.records import write_atomically
from morphojax.progress import bar
from morphojax.tasks import config_files

CONFIG = "configs/study_null.py"
NOMINAL = {"interval": 0.05, "gain": 0.025, "t interval": 0.05, "p < 0.05": 0.05}


def run(number: int, folder: Path) -> pd.Series:
    """The contrast of one study; it runs what is not done. Raises StudyError where a cell fails."""
    config = config_files.load(f"{CONFIG}:{number}")
    config_files.override(config, {"folder": str(folder / str(number))}, "--output")
    study = spec.from_config(config)
    planned = jobs.plan(study)
    worker.work(planned, _check, Inline())
    jax.clear_caches()  # every run makes its own functions
    states = state.read_all(planned)
    if left := [name for name, found in states.items() if found.status != state.DONE]:
        raise StudyError(f"{study.folder}: {left[0]} is {states[left[0]].status}: another process runs this study")
    found = report.find(study, planned, states)
    return found.parts[0][1][tables.PRIMARY].iloc[0]


def _check(job: jobs.Job, found: state.State) -> None:
    if found.status != state.DONE:
        raise StudyError(f"{job.run}: {found.status}: {found.why}")


def claims(contrasts: pd.DataFrame) -> pd.DataFrame:
    """A row per kind of claim: claims, studies, rate, its exact 95 % interval (Clopper and Pearson
    1934), the nominal rate, and the p-value that the true rate is above it.
    """
    excluded = (contrasts["low"] > 0) | (contrasts["high"] < 0)
    made = {
        "interval": excluded,
        "gain": contrasts["low"] > 0,
        "t interval": (contrasts["t_low"] > 0) | (contrasts["t_high"] < 0),
        "p < 0.05": contrasts["p_value"] < 0.05,
    }
    rows = []
    for name, flags in made.items():
        test = stats.binomtest(int(flags.sum()), len(flags), NOMINAL[name], alternative="greater")
        exact = stats.binomtest(int(flags.sum()), len(flags)).proportion_ci(method="exact")
        rows.append(
            [name, int(flags.sum()), len(flags), flags.mean(), exact.low, exact.high, NOMINAL[name], test.pvalue]
        )
    columns = ["claim", "claims", "studies", "rate", "low", "high", "nominal", "p_above"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=40, help="number of studies (default: 40)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/null_studies"), help="folder of the runs and the table"
    )
    options = parser.parse_args(argv)
    try:
        if options.studies < 1:
            raise StudyError(f"--studies={options.studies}: give a number, at least 1")
        # Runs of different seeds compile equal programs, initial weights excepted.
        jax.config.update("jax_compilation_cache_dir", str((options.output / "cache").resolve()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        rows = [
            run(number, options.output) for number in bar(range(options.studies), desc="null studies", unit="repeat")
        ]
    except (StudyError, config_files.ConfigError) as error:
        print(f"null_studies: {error}", file=sys.stderr)
        return 2
    contrasts = pd.DataFrame(rows).reset_index(drop=True)
    write_atomically(
        options.output / "null_studies.csv", contrasts.to_csv(index_label="study", float_format="%.6g").encode()
    )
    print(claims(contrasts).to_string(index=False, float_format="%.3f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
