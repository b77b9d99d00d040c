"""Clinical errors and Dice by slice position in a study's report."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.study import report, scores, sections, state, tables
from analysis.study.errors import StudyError
from morphojax.reports.document import to_markdown
from tests.analysis.study import made

EF = "lv_ef_error_percent_points"


pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture
def finished(tmp_path):
    """Six finished cells: three arms, one labelled set, two seeds."""
    study, planned = made.study(tmp_path, cells=({"labelled": ("2a",)},))
    for job in planned:
        made.finish(job)
    return study, planned


def cell(planned, name="scratch_2a_0"):
    return next(job for job in planned if job.name == name)


def table_of(job, name):
    return pd.read_csv(state.scoring_file(job.run, name, "test"))


def part_of(study, planned):
    return next(iter(tables.parts(study, scores.read(study, planned, made.states(planned)))))


def lines_of(found):
    """The lines of a section as Markdown; [] where there is none."""
    return to_markdown("", list(found), Path()).splitlines()[3:]


def missing(study, planned):
    return lines_of([sections.missing(study, planned, made.states(planned))])


def table_lines(name, study, planned):
    of = {"measures": sections.clinical, "positions": sections.positions}[name]
    return lines_of(of(study, part_of(study, planned)))


def test_clinical_errors_are_absolute_and_have_contrasts(finished):
    study, planned = finished
    found = report.find(study, planned, made.states(planned))
    one = found.scores.query("arm == 'scratch' and seed == '0' and subject == 3").set_index("metric")["value"]
    assert one[EF] == 5 + 3 and one["lv_edv_error_ml"] == 3.0 and one["rv_ef_error_percent_points"] == 6.0
    assert one["lv_ef_not_computed"] == 0 and "lv_mass_error_g" not in one and "lv_esv_ml" not in one
    table = found.parts[0][1][EF].set_index(["a", "b"])
    assert table.loc[("pretrained", "scratch"), "mean"] == pytest.approx(-2.0)
    assert table["planned"].to_dict() == {
        ("pretrained", "scratch"): True, ("pretrained", "shuffled"): True, ("shuffled", "scratch"): False,
    }  # fmt: skip
    lines = table_lines("measures", study, planned)
    assert any(line.startswith("| scratch | 2 labelled | 2 (sets 1, seeds 2) | 7.5 [") for line in lines)
    assert "- no LV EF (a phase without the cavity): 0 of 36 predictions." in lines
    assert "fraction" not in "".join(lines)


def test_an_ef_that_cannot_be_computed_is_the_largest_error_and_is_counted(finished):
    study, planned = finished
    table = table_of(cell(planned), "measures")
    ef = table["measure"] == "lv_ef_percent"
    table.loc[ef & (table["index"] == 0), "predicted"] = np.nan  # the reference is 60 %
    table.loc[ef & (table["index"] == 1), ["reference", "predicted"]] = 30.0, np.nan
    table.loc[ef & (table["index"] == 2), "reference"] = np.nan
    made.rescore(cell(planned), "measures", table)
    part = part_of(study, planned)
    own = part.scores.query("arm == 'scratch' and seed == '0'")
    errors = own[own["metric"] == EF].set_index("subject")["value"]
    assert errors[0] == 60.0 and errors[1] == 70.0 and np.isnan(errors[2]) and errors[3] == 8.0
    means = tables.means(study, part, [EF, "lv_ef_not_computed"]).set_index("arm")
    assert means.loc["scratch", EF] == pytest.approx((60 + 70 + 8 + 9 + 10 + 5 + 6 + 7 + 8 + 9 + 10) / 11)
    assert means.loc["scratch", "lv_ef_not_computed"] == pytest.approx(2 / 11)
    lines = table_lines("measures", study, planned)
    assert "| no LV EF, fraction |" in lines[1] and "RV EF, fraction" not in lines[1]
    assert any(
        "no LV EF (a phase without the cavity): 2 of 35 predictions; each counts as the largest" in x for x in lines
    )
    assert "- no LV EF: 1 of 36 references; they are in no mean." in lines


def test_dice_by_position_is_a_mean_over_runs_and_subjects(finished):
    lines = table_lines("positions", *finished)
    rows = [line.split(" | ") for line in lines if line.startswith("| scratch")]
    base, middle, apex = rows[0][3:]
    assert base.startswith("0.725 [") and middle == "0.925" and apex == "0.625 |"


@pytest.mark.parametrize(("name", "what"), [("measures", "clinical errors"), ("positions", "Dice by slice position")])
def test_a_cell_scored_by_an_earlier_version_is_left_out_with_a_sentence(finished, name, what):
    study, planned = finished
    made.rescore(cell(planned), name, None)
    lines = table_lines(name, study, planned)
    assert any(line.startswith("| scratch | 2 labelled | 1 (sets 1, seeds 1)") for line in lines)
    sentence = f"No {what} of 1 of 6 scored cells (scratch_2a_0): an earlier version scored them"
    assert any(sentence in line for line in missing(study, planned))
    for job in planned:
        if job.cell is not None and job.name != "scratch_2a_0":
            made.rescore(job, name, None)
    assert table_lines(name, study, planned) == []
    assert any(f"No {what} of 6 of 6 scored cells: an" in x for x in missing(study, planned))


def test_a_long_axis_has_neither_and_nothing_is_missing(finished):
    study, planned = finished
    for number, job in enumerate(job for job in planned if job.cell is not None):
        measures = table_of(job, "measures").assign(plane="la_2ch", measure="la_volume_ed_ml")
        made.rescore(job, "measures", measures if number else pd.DataFrame())  # or none at all
        made.rescore(job, "positions", table_of(job, "positions").iloc[:0])
    assert table_lines("measures", study, planned) == []
    assert table_lines("positions", study, planned) == []
    assert missing(study, planned)[1] == "None."


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("measures", {"measure": None}, "measures_test.csv: has no column 'measure'; remove the run's directory"),
        ("positions", {"position": None}, "positions_test.csv: has no column 'position'"),
        ("positions", {"dice": 1.5}, "positions_test.csv: holds a Dice outside 0 to 1"),
        ("positions", {"structure": "lv"}, "positions_test.csv: unknown structure 'lv'"),
    ],
)
def test_impossible_tables_are_refused(finished, name, change, message):
    study, planned = finished
    table = table_of(cell(planned), name)
    for column, value in change.items():
        table = table.drop(columns=column) if value is None else table.assign(**{column: value})
    made.rescore(cell(planned), name, table)
    with pytest.raises(StudyError, match=message):
        part_of(study, planned)


@pytest.mark.parametrize("name", ["measures", "positions"])
def test_a_table_that_changed_since_makes_the_cell_unusable(finished, name):
    job = cell(finished[1])
    state.scoring_file(job.run, name, "test").write_text("changed")
    found = state.read(job)
    assert found.status == state.UNUSABLE and f"{name}_test.csv: is gone or has changed" in found.why
