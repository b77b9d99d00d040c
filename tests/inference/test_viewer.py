"""The pages of `predict --view`: what they hold, and that a browser shows it."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from morphojax import anatomy, predict
from morphojax.commands import predict as work
from morphojax.inference import viewer
from morphojax.inference.measures import PredictError
from tests.toy_run import GREY, toy_image, toy_label, toy_run

CINE = """cine <b>&"x'<script>"""
AFFINE = np.diag([2.0, -2.0, 8.0, 1.0])
SHAPE = (40, 36, 5)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Software WebGL: a machine for tests has no display.
FLAGS = ["--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# Counts the pixels of each structure, and their mean place, after each action.
ACTIONS = """
<pre id="result"></pre><script>
function look() {
  nv.drawScene();
  const { width, height } = nv.canvas;
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  context.drawImage(nv.canvas, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const found = structures.map(() => [0, 0, 0]);
  for (let i = 0; i < data.length; i += 4) {
    const s = structures.findIndex(({ colour }) => colour.every((c, k) => Math.abs(c - data[i + k]) < 3));
    if (s >= 0) { found[s][0]++; found[s][1] += (i / 4) % width; found[s][2] += Math.floor(i / 4 / width); }
  }
  const labels = found.map(([n, x, y]) => [n, x / n, y / n]);
  return { labels, slice: state.slice, frame: state.frame, picture: nv.canvas.toDataURL() };
}
started.then(() => {
  const change = (id, value) => {
    element(id).value = value;
    element(id).dispatchEvent(new Event("input"));
  };
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  element("smooth").click();
  change("opacity", 100);
  const seen = { start: look() };
  nv.canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 120, bubbles: true, cancelable: true }));
  seen.slice = look();
  press("ArrowRight");
  seen.frame = look();
  document.querySelector("#structures input").click();
  seen.hidden = look();
  change("zoom", 1.3);
  seen.zoomed = look();
  change("zoom", 1);
  change("opacity", 0);
  seen.image = look();
  change("level", 20);
  seen.level = look();
  element("result").textContent = JSON.stringify(seen);
}).catch((error) => { element("result").textContent = JSON.stringify(String(error.stack)); });
</script>"""


def save(folder, name, data):
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), AFFINE), folder / f"{name}.nii.gz")


def cine_labels():
    """The LV grows; the RV is at smaller x, and only in slice 3 is the LV at larger y."""
    labels = [toy_label(SHAPE, radius) for radius in (5, 7, 6)]
    for label in labels:
        label[..., 3] = np.roll(label[..., 3], 6, axis=1)
    return labels


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Folders: images of two hearts and a damaged file, and what `predict --view` made of them."""
    source, output = (tmp_path_factory.mktemp(name) for name in ("in", "out"))
    save(source, CINE, np.stack([toy_image(label) for label in cine_labels()], -1))
    save(source, "p_ED", toy_image(toy_label(SHAPE, 8)) * 3 + 100)
    save(source, "p_ES", toy_image(toy_label((*SHAPE[:2], 4), 5)))
    (source / "damaged.nii").write_text("no image")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "load_ensemble", lambda *_, **__: toy_run())
        args = ["--run=r", f"--input={source}", f"--output={output}", "--labels=acdc", "--view"]
        assert predict.main(args) == 1, "the damaged file is left out"
        assert predict.main(args) == 2, "an earlier page needs --overwrite"
    return source, output


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def voxels(file, kind):
    data = np.frombuffer(gzip.decompress(base64.b64decode(file[kind])), np.uint8)
    return data.reshape(file["shape"], order="F")


def test_the_list_names_every_heart_that_was_segmented(predicted):
    _, output = predicted
    text = (output / "view.html").read_text()
    assert re.findall(r'href="(.*?)"', text) == ["view/0001.html", "view/0002.html"]
    assert sorted(path.name for path in (output / "view").iterdir()) == ["0001.html", "0002.html"]
    assert "cine &lt;b&gt;&amp;&#34;x&#39;&lt;script&gt;" in text and ">p</a>" in text and "damaged" not in text
    ejection = pd.read_csv(output / "measures.csv", dtype=str)["lv_ef_percent"]
    assert "<th>lv ef percent</th>" in text and all(f"<td>{value}</td>" in text for value in ejection)


def test_a_page_holds_frames_structures_and_measures(predicted):
    _, output = predicted
    page = (output / "view" / "0001.html").read_text()
    assert "<b>" not in page and page.count("<script") == 3
    assert "default-src 'none'" in page and "connect-src data: blob:;" in page, "the network is barred"
    data = data_of(page)
    (file,) = data["files"]
    assert file["frames"] == ["0", "1", "2"] and file["spacing"] == [2, 2, 8]
    numbers = {s["name"]: (s["number"], s["column"], s["unit"]) for s in data["structures"]}
    assert numbers["LV cavity"] == (3, "lv_cavity_ml", "mL") and numbers["RV cavity"][0] == 1 and len(numbers) == 3
    label = np.asarray(nib.load(next(output.glob("cine*"))).dataobj)
    np.testing.assert_array_equal(voxels(file, "label"), label)
    volume = (label[..., 1] == 3).sum() * 2 * 2 * 8 / 1000
    assert float(file["rows"][1]["lv_cavity_ml"]) == pytest.approx(volume, rel=1e-4)
    assert "lv_ef_percent" in page and 'id="next" href="0002.html"' in page and 'id="previous"' not in page


def test_two_files_of_a_heart_are_its_frames(predicted):
    _, output = predicted
    page = (output / "view" / "0002.html").read_text()
    files = data_of(page)["files"]
    assert [file["frames"] for file in files] == [["ED"], ["ES"]] and [file["shape"][2] for file in files] == [5, 4]
    assert "<title>p</title>" in page and "lv_ef_percent" in page and 'id="previous" href="0001.html"' in page


def test_grey_values_are_cut_to_eight_bits(predicted):
    source, output = predicted
    file = data_of((output / "view" / "0002.html").read_text())["files"][0]
    image = np.asarray(nib.load(source / "p_ED.nii.gz").dataobj)
    assert file["low"] == 100 and file["high"] == pytest.approx(100 + 3 * GREY[3]), "without the white corner"
    shown = file["low"] + voxels(file, "image")[..., 0] / 255.0 * (file["high"] - file["low"])
    step = (file["high"] - file["low"]) / 255
    np.testing.assert_allclose(shown, np.minimum(image, file["high"]), atol=step / 2 + 1e-3)


def test_a_constant_image_is_shown_black(tmp_path):
    save(tmp_path, "black", np.full(SHAPE, 7))
    file = viewer._file(tmp_path / "black.nii.gz", tmp_path / "black.nii.gz", [])
    assert not voxels(file, "image").any()


def test_pages_of_an_earlier_prediction_are_removed(tmp_path):
    (tmp_path / "view").mkdir()
    for name in ("0007.html", "own.html"):
        (tmp_path / "view" / name).touch()
    with pytest.raises(PredictError, match=r"view already exists; add --overwrite"):
        viewer.check(tmp_path, overwrite=False)
    viewer.check(tmp_path, overwrite=True)
    for table in ("volumes.csv", "measures.csv"):
        (tmp_path / table).write_text("\n")  # as where every file was left out
    page = viewer.write_pages(tmp_path, [], tmp_path, ["lv_cavity"], "canonical")
    assert "No file was segmented" in page.read_text()
    assert [path.name for path in (tmp_path / "view").iterdir()] == ["own.html"]


def test_pages_are_written_on_request_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(work, "load_ensemble", lambda *_, **__: toy_run())
    (tmp_path / "in").mkdir()
    save(tmp_path / "in", "heart", toy_image(toy_label(SHAPE)))
    args = ["--run=r", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    assert predict.main(args) == 0 and not (tmp_path / "out" / "view.html").exists()
    capsys.readouterr()
    assert predict.main([*args, "--view", "--overwrite"]) == 0
    assert f"view: open {tmp_path / 'out' / 'view.html'} in a browser" in capsys.readouterr().out


def test_areas_of_a_long_axis_plane():
    row = {"la_cavity_cm2": "12"}
    (found,) = viewer._structures(["la_cavity"], "ukb_la_2ch", [row])
    assert (found["number"], found["column"], found["unit"]) == (1, "la_cavity_cm2", "cm²")


def test_niivue_is_the_recorded_one():
    """launch/niivue.sh renews it."""
    record = json.loads((viewer.ASSETS / "niivue.json").read_text())
    script = gzip.decompress((viewer.ASSETS / "niivue.umd.js.gz").read_bytes())
    assert hashlib.sha256(script).hexdigest() == record["sha256"]
    licences = (viewer.ASSETS / "LICENSES.txt").read_text()
    assert licences.startswith(f"== @niivue/niivue {record['version']}\n\nBSD 2-Clause License")


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")
def test_a_browser_shows_the_page(predicted, tmp_path):
    _, output = predicted
    page = tmp_path / "page.html"
    text = (output / "view" / "0001.html").read_text()
    page.write_text(text.replace("</body>", ACTIONS + "</body>"))
    options = [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=800,700"]
    command = [BROWSER, *options, "--virtual-time-budget=30000", "--dump-dom", page.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = json.loads(re.search(r'<pre id="result">(.*?)</pre>', dumped, re.S)[1])
    lv, myocardium, rv = 0, 1, 2
    start = seen["start"]["labels"]
    assert all(count > 100 for count, _, _ in start)
    assert start[rv][1] < start[lv][1], "x points to the right"
    assert (seen["start"]["slice"], seen["slice"]["slice"]) == (2, 3)
    assert seen["slice"]["labels"][lv][2] > start[lv][2] + 10, "y points down"
    ratio = seen["frame"]["labels"][lv][0] / seen["slice"]["labels"][lv][0]
    small, large, _ = [(label == anatomy.LABEL_ID["lv_cavity"]).sum() for label in cine_labels()]
    assert seen["frame"]["frame"] == 1 and ratio == pytest.approx(large / small, rel=0.02)
    assert [count > 0 for count, _, _ in seen["hidden"]["labels"]] == [False, True, True]
    assert seen["hidden"]["labels"][myocardium] == seen["frame"]["labels"][myocardium]
    count, _, _ = seen["zoomed"]["labels"][myocardium]
    assert count / seen["hidden"]["labels"][myocardium][0] == pytest.approx(1.3**2, rel=0.05), "inside the canvas"
    assert not any(count for count, _, _ in seen["image"]["labels"])
    assert seen["level"]["picture"] != seen["image"]["picture"] != seen["hidden"]["picture"]
