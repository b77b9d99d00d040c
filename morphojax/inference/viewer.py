"""Offline pages that show labels over their images: `morphojax predict --view`.

One page per heart, because a cine alone takes 10 to 20 MB. A page holds NiiVue
(https://github.com/niivue/niivue), images and labels, and needs neither network nor server.
"""

import base64
import csv
import functools
import gzip
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from morphojax import anatomy
from morphojax.data import geometry
from morphojax.data.sources import nifti, nifti_bytes
from morphojax.data.store.records import write_atomically
from morphojax.inference.files import hearts, stem
from morphojax.inference.measures import PredictError

ASSETS = Path(__file__).with_name("assets")
INDEX, PAGES = "view.html", "view"  # in the folder of the predictions
BRIGHTEST = 99.9  # percentile of a frame; brighter voxels (fat, metal) become white
_PAGE = re.compile(r"\d{4,}\.html")
_UNITS = {"ml": "mL", "cm2": "cm²"}  # as columns of volumes.csv end


def check(output: Path, overwrite: bool) -> None:
    """Raises PredictError where pages exist and may not be replaced."""
    existing = [path for path in (output / INDEX, output / PAGES) if path.exists()]
    if existing and not overwrite:
        raise PredictError(f"{existing[0]} already exists; add --overwrite or change --output")


def write_pages(output: Path, paths: Sequence[Path], source: Path, structures: Sequence[str], labels: str) -> Path:
    """Writes a page per heart and a list of them, whose path it returns.

    Files without a row in volumes.csv were left out of the prediction and are not shown. Pages
    of an earlier prediction are removed.

    Args:
        output: the folder with the labels, volumes.csv and measures.csv.
        paths: the images, of `find_inputs`.
        source: the file or folder that was searched for them.
        structures: that the labels may hold.
        labels: of anatomy.CONVENTIONS, the numbers on disk.
    """
    root = source if source.is_dir() else source.parent
    volumes = _rows(output / "volumes.csv")
    measures = _rows(output / "measures.csv")
    named = {path: str(path.relative_to(root).with_name(stem(path))) for path in paths}
    predicted = {row["file"] for row in volumes}
    shown = [group for files in hearts(paths) if (group := [path for path in files if named[path] in predicted])]
    _remove_pages(output / PAGES)
    listed = []
    for number, group in enumerate(shown, start=1):
        names = [named[path] for path in group]
        title = names[0] if len(names) == 1 else names[0].rpartition("_")[0]
        files = [
            _file(path, output / path.relative_to(root), [row for row in volumes if row["file"] == named[path]])
            for path in group
        ]
        heart = {
            "title": title,
            "page": _page(number),
            "frames": sum(file["shape"][3] for file in files),
            "measures": [row for row in measures if _measured_on(row, names)],
        }
        values = heart | {
            "data": {"structures": _structures(structures, labels, volumes), "files": _name_frames(files, names)},
            "position": f"{number} of {len(shown)}",
            "previous": number > 1 and _page(number - 1),
            "next": number < len(shown) and _page(number + 1),
        }
        _write(output / PAGES / heart["page"], "heart.html.j2", values | _scripts())
        listed.append(heart)
    columns = [name for name in (measures[0] if measures else ()) if name not in ("file", "kind")]
    _write(output / INDEX, "index.html.j2", {"hearts": listed, "folder": PAGES, "columns": columns})
    return output / INDEX


def _remove_pages(folder: Path) -> None:
    for path in sorted(folder.glob("*.html")):
        if _PAGE.fullmatch(path.name):
            path.unlink()


def _page(number: int) -> str:
    """A number, as the name of a heart may be too long or have characters that a link cannot."""
    return f"{number:04d}.html"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _measured_on(row: Mapping[str, str], names: Sequence[str]) -> bool:
    """Whether a row of measures.csv belongs to the heart with these files."""
    return (f"{row['file']}_{row['ed']}" if row["kind"] == "frames" else row["file"]) in names


def _structures(structures: Sequence[str], labels: str, volumes: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Name, number on disk, colour, and column of volumes.csv with its unit."""
    numbers = anatomy.CONVENTIONS[labels].from_canonical()
    columns = volumes[0] if volumes else {}
    return [
        {
            "name": anatomy.LABEL_NAME[structure],
            "number": numbers[anatomy.LABEL_ID[structure]],
            "colour": anatomy.COLOUR[structure],
            "column": column,
            "unit": unit,
        }
        for structure in structures
        for suffix, unit in _UNITS.items()
        if (column := f"{structure}_{suffix}") in columns
    ]


def _file(path: Path, label_path: Path, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Voxels of an image, cut to 8 bits, and of its label; the axes are X, Y, Z, T as stored."""
    image, label = (nifti.from_image(p, nifti_bytes.parse(p)) for p in (path, label_path))
    if image.raw.shape != label.raw.shape:
        raise PredictError(f"{label_path}: shape {label.raw.shape} differs from {image.raw.shape} of {path}")
    frames = range(image.frames)
    low = min(float(image.values(t).min()) for t in frames)
    high = max(float(np.percentile(image.values(t), BRIGHTEST)) for t in frames)
    scale = 255 / (high - low) if high > low else 0.0
    grey = (np.rint(np.clip((image.values(t) - low) * scale, 0, 255)) for t in frames)
    return {
        "shape": [*image.raw.shape[:3], image.frames],
        "spacing": geometry.spacing_of(image.affine),
        "low": low,
        "high": high,
        "image": _packed(grey),
        "label": _packed(label.label_values(t) for t in frames),
        "rows": [{k: v for k, v in row.items() if v and k not in ("file", "frame")} for row in rows],
    }


def _packed(frames: Iterable[np.ndarray]) -> str:
    """Frames [X, Y, Z] as uint8, X fastest and T slowest; gzip, then base64."""
    data = b"".join(frame.astype(np.uint8).tobytes(order="F") for frame in frames)
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode()


def _name_frames(files: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The files with the names of their frames: ED and ES of two files, 0, 1, ... of a cine."""
    made = []
    for file, name in zip(files, names, strict=True):
        own = name.rpartition("_")[2] if len(files) > 1 else ""
        numbers = [str(t) for t in range(file["shape"][3])] if file["shape"][3] > 1 else [""]
        made.append(file | {"frames": [" ".join(filter(None, (own, number))) for number in numbers]})
    return made


def _write(path: Path, template: str, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    page = _environment().get_template(template).render(style=_text("viewer.css"), **values)
    write_atomically(path, page.encode())


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(ASSETS)
    return jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, loader=loader
    )


@functools.cache
def _text(asset: str) -> str:
    return (ASSETS / asset).read_text(encoding="utf-8")


@functools.cache
def _scripts() -> dict[str, str]:
    """What every page of a heart holds. NiiVue is a script as gzip, then base64."""
    niivue = base64.b64encode((ASSETS / "niivue.umd.js.gz").read_bytes()).decode()
    return {"niivue": niivue, "script": _text("viewer.js"), "licences": _text("LICENSES.txt"), "index": INDEX}
