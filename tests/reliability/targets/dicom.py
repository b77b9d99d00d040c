"""UK Biobank's zips of DICOM files, and cvi42 workspaces."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np

from morphojax import anatomy
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.contours import labels_for, unplaced
from morphojax.data.sources.cvi42 import read_contours
from morphojax.data.sources.ukb_dicom import UkbDicom
from tests.data import cvi42_files, ukb_zips
from tests.data.sources.dicom_cohort import cine
from tests.reliability import mutations
from tests.reliability.mutations import Mutate, bits
from tests.reliability.targets import Target, check_subject, require

SAX, LAX = "1000017_20209_2_0.zip", "1000017_20208_2_0.zip"
SHAPE = (8, 7, 2, 3)  # X, Y, Z, T
_META = 132  # bytes of the preamble and "DICM"
_LONG = (b"OB", b"OW", b"OF", b"SQ", b"UN", b"UT")  # value representations with a length of 4 bytes
_SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50", "1.2.3", "",
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80",
)  # fmt: skip
_VALUES = (
    b"", b"0", b"-1", b"1", b"1e5", b"1e400", b"nan", b"inf", b"-inf", b"abc", b"1\\2", b"1\\2\\3", b"1\\0\\0\\0\\1\\0",
    b"\\\\", b"9" * 300, b"\0\0", b"\xff\xff", b"\0\0\0\0", b"\1\0", b"\2\0", b"\x20\0", b"\x40\0", b"\xe8\x03",
    b"MONOCHROME1", b"RGB", b"PALETTE COLOR", b"CINE_segmented_SAX", b"CINE_segmented_SAX_b99999", b"20150830", b"\x1b[31m",
    b"CINE_segmented_LAX_3Ch", b"1.5\\1.5", b"0\\1.5", b"-1.5\\1.5", b"1.5E3\\1.5E3", b"1.5\\1.5\n", b"\xe9\xff",
)  # fmt: skip
Element = tuple[bytes, bytes, bytes]  # tag, value representation, value


def elements(data: bytes) -> list[Element]:
    """The elements of a file in the explicit little-endian syntax, without sequences."""
    found, at = [], _META
    while at < len(data):
        tag, kind = data[at : at + 4], data[at + 4 : at + 6]
        start = at + (12 if kind in _LONG else 8)
        length = (
            struct.unpack("<I", data[at + 8 : at + 12])[0]
            if kind in _LONG
            else struct.unpack("<H", data[at + 6 : at + 8])[0]
        )
        found.append((tag, kind, data[start : start + length]))
        at = start + length
    return found


def joined(parts: Sequence[Element], lie: Callable[[int], int] = lambda n: n) -> bytes:
    """The file of these elements. lie: changes the lengths that it states."""
    out = bytearray(b"\0" * 128 + b"DICM")
    for tag, kind, value in parts:
        value += b"\0" * (len(value) % 2)
        length = lie(len(value))
        out += tag + kind
        out += b"\0\0" + struct.pack("<I", length % 2**32) if kind in _LONG else struct.pack("<H", length % 2**16)
        out += value
    return bytes(out)


def change(draw: Random, parts: list[Element]) -> tuple[list[Element], Callable[[int], int]]:
    """Elements with one changed, removed, repeated or moved; and how lengths are stated."""
    lie = lambda n: n  # noqa: E731
    at = draw.randrange(len(parts))
    tag, kind, value = parts[at]
    what = draw.randrange(9)
    if what == 0:
        del parts[at]
    elif what == 1:
        parts.insert(draw.randrange(len(parts)), parts[at])
    elif what == 2:
        kinds = (b"US", b"DS", b"IS", b"SQ", b"UN", b"OW", b"FD", b"LO", b"UI", b"PN", b"AT", b"XX")
        parts[at] = (tag, draw.choice(kinds), value)
    elif what == 3:
        target, wrong = len(value) + len(value) % 2, draw.choice((0, 1, 2**16 - 1, 2**32 - 1, 2**31, 10**6, 10, 100))
        lie = lambda n: wrong if n == target else n  # noqa: E731
    elif what == 4:
        syntax = draw.choice(_SYNTAXES).encode()
        parts = [(t, k, syntax if t == b"\2\0\x10\0" else v) for t, k, v in parts]
    elif what == 5:
        tags = (
            b"\x28\0\x52\x10",
            b"\x28\0\x53\x10",
            b"\x28\0\x08\0",
            b"\x28\0\x04\1",
            b"\x20\0\x13\0",
            b"\x18\0\x60\x10",
        )
        parts.append((draw.choice(tags), b"DS", draw.choice(_VALUES)))
    else:
        parts[at] = (tag, kind, draw.choice((*_VALUES, bits(draw, value), value + value, value[: len(value) // 2])))
    return parts, lie


def mutate_image(draw: Random, data: bytes) -> bytes:
    if draw.random() < 0.15:
        return bits(draw, data)
    parts, lie = elements(data), lambda n: n
    for _ in range(draw.choice((1, 1, 2))):
        parts, lie = change(draw, parts) if parts else (parts, lie)
    out = joined(parts, lie)
    if draw.random() < 0.05:  # the data set deflated, as one transfer syntax asks for
        end = out.find(b"\x08\0\x16\0")
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = out[end:] + b"\0" * draw.choice((0, 2**26))
        out = (
            out[:end].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
            + packer.compress(body)
            + packer.flush()
        )
    return out


def mutate_members(draw: Random, data: bytes) -> bytes:
    """A zip of which one image, several in another way, or all in the same way have changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    images = [name for name in files if name.endswith(".dcm")]
    one, seed = draw.choice(images), draw.random()
    for name in images if draw.random() < 0.4 else [one]:
        files[name] = mutate_image(Random(seed), files[name])
    if draw.random() < 0.1:
        files[draw.choice(images)] = files[one]
    if draw.random() < 0.1:
        del files[draw.choice(images)]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def mutate_zip(draw: Random, data: bytes) -> bytes:
    """The zip itself: its directory, names, sizes and flags."""
    if draw.random() < 0.3:
        return bits(draw, data)
    out = bytearray(data)
    marks = [i for i in range(len(out) - 4) if out[i : i + 4] in (b"PK\1\2", b"PK\3\4", b"PK\5\6")]
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.choice(marks) + draw.randrange(4, 60)
        size = draw.choice((1, 2, 4))
        value = draw.choice(
            (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0", b"\0\x08\0\x08", b"\n/..", draw.randbytes(4))
        )
        out[at : at + size] = value[:size]
    return bytes(out)


def build(folder: Path) -> None:
    affine = ukb_zips.oblique()
    ukb_zips.write(folder / SAX, ukb_zips.short_axis(cine(SHAPE), affine))
    views = [ukb_zips.long_axis(cine((8, 7, 1, 2), seed=n), affine, n) for n in (2, 4)]
    ukb_zips.write(folder / LAX, [image for images in views for image in images])


def build_images(folder: Path) -> Sequence[tuple[str, Mutate]]:
    build(folder)
    return [(SAX, mutate_members), (SAX, mutate_members), (LAX, mutate_members)]


def build_zips(folder: Path) -> Sequence[tuple[str, Mutate]]:
    build(folder)
    return [(SAX, mutate_zip), (LAX, mutate_zip)]


def read(folder: Path, changed: Sequence[Path]) -> None:
    source = UkbDicom(folder, frames="2")
    (subject,) = source.subjects()
    planes = [plane for path in changed for plane in (("sax",) if path.name == SAX else anatomy.LONG_AXIS)]
    views = source.read(subject, sorted(set(planes))).views
    check_subject(views)
    for plane, view in views.items():
        for frame in view.frames:
            require(frame.image.shape[:2] == SHAPE[:2], f"{plane} of shape {frame.image.shape}")


def build_contours(folder: Path) -> Sequence[tuple[str, Mutate]]:
    triangle, square = [(1, 1), (6, 1), (1, 6)], [(2, 2), (5, 2), (5, 5), (2, 5)]
    names = ("saendocardialContour", "saepicardialContour", "sarvendocardialContour")
    drawn = "".join(
        cvi42_files.drawn(name, points) for name, points in zip(names, (square, triangle, square), strict=True)
    )
    text = cvi42_files.workspace({"1.3": drawn, "1.4": cvi42_files.drawn("lalaContour", triangle, 1), "1.5": drawn})
    (folder / "heart.cvi42wsx").write_text(text)
    return [("heart.cvi42wsx", mutations.text(*mutations.XML_TOKENS))]


def read_labels(folder: Path, changed: Sequence[Path]) -> None:
    path = folder / "heart.cvi42wsx"
    contours = read_contours(path)
    labels = labels_for(path, [list(contours) or ["1.3"]], contours, (9, 8))
    for label in labels.frames:
        require(label is None or (label.shape == (8, 9, 1) and label.dtype == np.uint8 and label.max() <= 5), "label")
    require(all(np.isfinite(c.points).all() for drawn in contours.values() for c in drawn if c.structure), "points")
    require(len(unplaced(contours, contours, ("sa", "la"))) == 0, "unplaced")


TARGETS = (
    Target("ukb_dicom", build_images, read, (CohortError,)),
    Target("ukb_zip", build_zips, read, (CohortError,)),
    Target("cvi42", build_contours, read_labels, (CohortError,)),
)
