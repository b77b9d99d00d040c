"""`morphojax report`: one evaluated run, and several side by side."""

import html
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from morphojax import report
from morphojax.data.store.splits import SPLITS
from morphojax.evaluation import contrasts
from morphojax.reports import card, evaluated, figures, several
from tests.reports import made

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are empty: drawing them takes most of the time."""
    monkeypatch.setattr(figures, "to_svg", lambda figure: "<svg></svg>")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs; the second has a Dice 0.04 higher, and EDV errors 4 ml smaller."""
    folder = tmp_path_factory.mktemp("runs")
    second = {"init_from": "", "seed": 1, "unlabelled.batch_size": 2}
    return made.evaluated(folder / "first"), made.evaluated(folder / "second", gain=0.04, **second)


@pytest.fixture
def copied(runs, tmp_path):
    """The first run, to damage."""
    return shutil.copytree(runs[0], tmp_path / "copy")


def page(tmp_path, *folders, flags=()):
    """The text of the report of these runs, without tags; cells and lines end in a bar."""
    output = tmp_path / "out" / "report.html"
    assert report.main([*map(str, folders), f"--output={output}", *flags]) == 0
    return html.unescape(
        re.sub(r"<[^>]*>\s*", "|", re.sub(r"<style>.*?</style>|</?text[^>]*>", "", output.read_text()))
    )


def refused(capsys, tmp_path, *folders, flags=()):
    output = tmp_path / "out" / "report.html"
    assert report.main([*map(str, folders), f"--output={output}", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and not output.exists()
    return error


def test_the_report_of_a_run(runs, tmp_path):
    text = page(tmp_path, runs[0])
    assert "secret" not in text
    assert "Task: segmentation of sax slices, from images alone: LV cavity, RV cavity." in text
    assert "Config: segment_sax with other values of data.dataset, steps." in text
    assert "Dataset gone is not there" in text and "fingerprint d1" in text
    assert f"Scored: {made.SUBJECTS} subjects of the test split (dataset d1); best checkpoint, weights model" in text
    mean = np.mean([made.dice(s, "lv_cavity", phase) for s in range(made.SUBJECTS) for phase in ("ED", "ES")])
    assert re.search(rf"LV cavity\|+pooled\|+{mean:.3f} \[0.\d\d\d, 0.\d\d\d\][^L]*\|+5\|+10\|", text)
    assert re.search(r"mean of structures\|+0.700 \[0.700, 0.700\]\|+0.900 \[0.900, 0.900\]\|+0.600", text)
    differences = [10.0 + s for s in range(made.SUBJECTS)]
    assert re.search(
        rf"LV EDV \(mL\)\|+5\|+\+{np.mean(differences):.1f} \[\+10.0, \+14.0\]", text
    )  # 12 +- 2.776 * 1.58 / 5 ** 0.5
    assert "LV EF (%), sax: 1 predictions give none" in text
    assert "RV EF (%), sax: 1 subjects have no reference" in text and "LV CO" not in text
    assert "best: subject 4, Dice 0.865" in text and "worst: subject 0, Dice 0.465" in text
    assert "subject 3, sax ES: RV cavity spurious" in text and "missed" in text
    command = "morphojax train --config=segment_sax --config.data.dataset=gone --config.steps=4"
    assert command in text and f"morphojax evaluate --run={runs[0]} --split=test" in text
    assert "Trained with Python 3.11.7; jax 0.10.2; cpu." in text


def test_the_page_needs_no_other_file_and_draws_every_figure(runs, tmp_path):
    page(tmp_path, runs[0])
    text = (tmp_path / "out" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"#][^"]{0,12})', text)
    assert all(source.startswith("data:") for source in sources) and "<script" not in text
    assert text.count("<svg") == 2 + 3 + 3  # loss and Dice, three measures, three cases
    assert text.count("predicted - reference (mL)") == 1 and text.count("mean of the two (%)") == 2
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "report.html"]


def test_what_earlier_versions_did_not_write_is_a_sentence(copied, tmp_path, undrawn):
    for name in ("cases_test.npz", "positions_test.csv"):
        (copied / "evaluation" / name).unlink()
    (copied / "metrics.jsonl").unlink()
    path = copied / "evaluation" / "summary_test.json"
    about = json.loads(path.read_text())
    del about["conventions"]["surface_dice_tolerance_mm"], about["runs"]
    about["rows"] = [{k: v for k, v in row.items() if not k.startswith("surface")} for row in about["rows"]]
    path.write_text(json.dumps(about))
    text = page(tmp_path, copied)
    assert "sax: no pictures, because there is no cases_test.npz: run evaluate again to get them." in text
    assert "no positions_test.csv with rows" in text and "surface Dice" not in text
    assert "No curves: there is no metrics.jsonl with a loss." in text
    assert "|No Dice of validation subjects: the log has no val/dice.|" in text


def test_runs_side_by_side(runs, tmp_path, undrawn):
    text = page(tmp_path, *runs)
    assert "2 runs side by side: test split" in text and "secret" not in text
    means = [
        np.mean([made.dice(s, "rv_cavity", p) for s in range(5) for p in ("ED", "ES")]) + gain for gain in (0, 0.04)
    ]
    interval = r" \[0.\d\d\d, 0.\d\d\d\]"
    assert re.search(rf"RV cavity\|+{means[0]:.3f}{interval}\|+{means[1]:.3f}{interval}", text)
    assert re.search(r"RV cavity: second\|+\+0.040 \[\+0.040, \+0.040\]\|+5\|+0.062\|+1.00\|+0.000", text)
    assert "covers variation over test subjects only" in text
    assert re.search(r"LV EDV \(mL\)\|+12.0 \[\d+.\d, \d+.\d\]\|+8.0", text)
    assert re.search(r"LV EDV \(mL\): second\|+-4.0 \[-4.0, -4.0\]\|+5", text)
    assert re.search(r"LV EF \(%\): second\|+\+0.0 \[\+0.0, \+0.0\]\|+5", text)  # with the largest error of subject 0
    assert re.search(r"\|second\|+0\|+1\|+20\|+1\|", text)  # missed, spurious, of, no EF
    assert text.count("morphojax train --config=segment_sax") == 2


def test_a_difference_is_paired_by_subject(runs, tmp_path, undrawn):
    """Of a subject that one of the runs lacks, nothing is compared."""
    fewer = shutil.copytree(runs[1], tmp_path / "fewer")
    path = fewer / "evaluation" / "scores_test.csv"
    table = pd.read_csv(path)
    table[table["index"] > 0].sample(frac=1, random_state=0).to_csv(path, index=False)
    text = page(tmp_path, runs[0], fewer)
    assert re.search(r"mean of structures: fewer\|+\+0.040 \[\+0.040, \+0.040\]\|+4\|", text)


def test_the_interval_is_over_subjects(runs, monkeypatch):
    seen = []
    own = contrasts.contrast
    monkeypatch.setattr(contrasts, "contrast", lambda a, b, sets: seen.append((a, b, sets)) or own(a, b, sets))
    pair = [evaluated.of_run(run, "test") for run in runs]
    assert not any("subject" in table for each in pair for table in (each.scores, each.positions, each.measures))
    several.sections(dict(zip("ab", pair, strict=True)))
    a, b, sets = seen[0]
    assert a.shape == b.shape == (1, made.SUBJECTS) and len(sets) == 1
    np.testing.assert_allclose(a - b, 0.04)


def test_surface_dice_of_two_tolerances_is_left_out(runs, copied, tmp_path, undrawn):
    path = copied / "evaluation" / "summary_test.json"
    path.write_text(path.read_text().replace('"surface_dice_tolerance_mm": 2.0', '"surface_dice_tolerance_mm": 3.0'))
    text = page(tmp_path, runs[0], copied)
    assert "Surface Dice is left out" in text and "|surface Dice|" not in text
    assert "|surface Dice|" in page(tmp_path, *runs)


def test_runs_that_cannot_be_reported_are_refused(runs, copied, tmp_path, capsys):
    first = runs[0]
    assert "was not evaluated on the val split; it was evaluated on test: run `morphojax evaluate" in refused(
        capsys, tmp_path, first, flags=["--split=val"]
    )
    other_split = made.evaluated(tmp_path / "val", split="val")
    assert "val: was not evaluated on the test split; it was evaluated on val" in refused(
        capsys, tmp_path, first, other_split
    )
    dataset = made.evaluated(tmp_path / "dataset", fingerprint="d2")
    assert "scored on dataset d2" in refused(capsys, tmp_path, first, dataset)
    plane = made.evaluated(tmp_path / "plane", plane="la_4ch")
    assert "scored in la_4ch" in refused(capsys, tmp_path, first, plane)
    assert "is given twice" in refused(capsys, tmp_path, first, first)
    assert "nowhere/config.json: not found" in refused(capsys, tmp_path, first, tmp_path / "nowhere")
    shutil.rmtree(copied / "evaluation")
    assert "was not evaluated on the test split: run `morphojax evaluate" in refused(capsys, tmp_path, copied)
    path = copied / "preprocessing.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"structures": []}))
    assert "is no segmentation run" in refused(capsys, tmp_path, copied)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary_test.json", "{", "summary_test.json: cannot be read"),
        ("summary_test.json", "{}", "lacks 'checkpoint'"),
        ("scores_test.csv", None, "scores_test.csv: not found"),
        ("scores_test.csv", "index,plane\n0,sax\n", "has no column 'structure'"),
        (
            "measures_test.csv",
            "index,plane,measure,reference,predicted\n0,sax,lv_edv_ml,1,x\n",
            "'predicted' holds a value",
        ),
        ("measures_test.csv", "index,plane,measure,reference,predicted\n0,sax,size,1,2\n", "measure 'size' is unknown"),
    ],
)
def test_damaged_files_are_named(name, content, message, copied, tmp_path, capsys):
    path = copied / "evaluation" / name
    path.unlink() if content is None else path.write_text(content)
    error = refused(capsys, tmp_path, copied)
    assert message in error and "run evaluate again" in error


def test_damaged_pictures_and_no_measures_are_no_error(copied, tmp_path, undrawn):
    (copied / "evaluation" / "cases_test.npz").write_bytes(b"no zip")
    (copied / "evaluation" / "measures_test.csv").write_text("\n")
    text = page(tmp_path, copied)
    assert "cases_test.npz: not a file of cases" in text and "|Clinical measures|" not in text


@pytest.mark.parametrize("name", ["report.txt", "folder.html"])
def test_the_output_must_be_an_html_file(name, runs, tmp_path, capsys):
    (tmp_path / "folder.html").mkdir()
    assert report.main([str(runs[0]), f"--output={tmp_path / name}"]) == 2
    assert "name a file that ends in .html" in capsys.readouterr().err


def test_a_run_that_was_scored_with_it_and_is_gone_is_named(copied, tmp_path, undrawn):
    path = copied / "evaluation" / "summary_test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"runs": [str(copied), "moved/run"]}))
    assert "Scored together with moved/run, which is not there any more." in page(tmp_path, copied)


def test_the_command_names_no_subjects_and_keeps_lists(tmp_path):
    made.write_run(tmp_path / "run", "d", **{"data.subjects": ("secret1", "secret2"), "allow_unanatomical_flips": True})
    command = card.train(evaluated.read_run(tmp_path / "run"))
    assert "secret" not in command and "(2 names, see config.json)" in command
    assert "--config.allow_unanatomical_flips=true" in command
    (tmp_path / "list.txt").write_text("a\n")
    made.write_run(tmp_path / "listed", "d", **{"data.subjects": (str(tmp_path / "list.txt"),)})
    assert f"--config.data.subjects={tmp_path / 'list.txt'}" in card.train(evaluated.read_run(tmp_path / "listed"))


def test_a_config_of_another_version_is_not_compared(copied):
    path = copied / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"averaging": 0.9}))
    assert card.train(evaluated.read_run(copied)).startswith("# no shipped config has the keys of")
    del config["keep_checkpoints"]  # a key that changes no weights
    path.write_text(json.dumps(config))
    assert "--config=segment_sax" in card.train(evaluated.read_run(copied))


def test_a_run_trained_on_the_scored_split_says_so(tmp_path, undrawn):
    run = made.evaluated(tmp_path / "run", **{"data.splits": tuple(SPLITS)})
    assert "Trained on subjects of the test split: these are not scores of unseen hearts." in page(tmp_path, run)
