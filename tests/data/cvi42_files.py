"""cvi42 workspaces, written from contours or from label maps."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from morphojax import anatomy

NAME = {
    "rv_cavity": "sarvendocardialContour",
    "lv_myocardium": "saepicardialContour",
    "lv_cavity": "saendocardialContour",
}
NAME |= {"la_cavity": "lalaContour", "ra_cavity": "laraContour"}


def item(key: str, inside: str) -> str:
    return f'<Hash:item Hash:key="{key}">{inside}</Hash:item>'


def drawn(name: str, points, resolution: object = 4) -> str:
    """The XML of a contour; points in pixels."""
    scale = resolution if isinstance(resolution, int) and resolution > 0 else 1
    places = "".join(
        f"<List:item><Point:x>{x * scale!r}</Point:x><Point:y>{y * scale!r}</Point:y></List:item>"
        for x, y in np.asarray(points, float).tolist()
    )
    return item(name, item("Points", places) + item("SubpixelResolution", str(resolution)))


def workspace(images: dict[str, str]) -> str:
    states = item("ImageStates", "".join(item(uid, item("Contours", inside)) for uid, inside in images.items()))
    about = item("Name", "a study") + item("Studies", item("1", ""))
    space = 'xmlns:Hash="a" xmlns:List="b" xmlns:Point="c"'
    return f'<?xml version="1.0" encoding="UTF-8"?><Hash:root {space}>{about}{item("Workspace", states)}</Hash:root>'


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed polygons around a mask, midway between pixel centres, by marching squares."""
    padded = np.pad(mask, 1)
    leaving = {}  # side of a square, in half pixels -> the side where the outline that enters there leaves
    for r, c in np.argwhere(padded[1:, 1:] | padded[:-1, 1:] | padded[1:, :-1] | padded[:-1, :-1]):
        corners = [padded[r, c], padded[r, c + 1], padded[r + 1, c + 1], padded[r + 1, c]]
        sides = [(2 * c + 1, 2 * r), (2 * c + 2, 2 * r + 1), (2 * c + 1, 2 * r + 2), (2 * c, 2 * r + 1)]
        falls = [i for i in range(4) if corners[i] and not corners[(i + 1) % 4]]
        for i in falls:  # each corner by itself, where two are opposite
            j = next(k % 4 for k in range(i - 1, i - 5, -1) if not corners[k % 4] and corners[(k + 1) % 4])
            leaving[sides[i]] = sides[j]
    polygons = []
    while leaving:
        side, polygon = next(iter(leaving)), []
        while side in leaving:
            polygon.append(side)
            side = leaving.pop(side)
        polygons.append(np.array(polygon) / 2 - 1)
    return polygons


def covered(label: np.ndarray) -> dict[str, np.ndarray]:
    """Structure -> mask that its contour encloses: the epicardium encloses the cavity too."""
    masks = {s: label == i for s, i in anatomy.LABEL_ID.items()}
    masks["lv_myocardium"] = masks["lv_myocardium"] | masks["lv_cavity"]
    return masks


def drawings(labels: np.ndarray, uid: Callable[[int, int], str]) -> dict[str, str]:
    """UID -> XML of the contours around labels [X, Y, Z, T] of canonical ids; `uid(z, t)`."""
    by_uid = {}
    for z, t in np.ndindex(labels.shape[2:]):
        around = {s: outlines(mask) for s, mask in covered(labels[:, :, z, t].T).items()}
        by_uid[uid(z, t)] = "".join(drawn(NAME[s], max(o, key=len)) for s, o in around.items() if o)
    return by_uid


def save(path: Path, images: Mapping[str, str]) -> Path:
    path.write_text(workspace(dict(images)))
    return path
