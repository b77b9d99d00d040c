"""NIfTI images and labels: fields of the header set to extremes, bytes and gzip damaged."""

import gzip
import importlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np

from morphojax import anatomy
from morphojax.data import geometry
from morphojax.data.sources import nifti
from morphojax.data.sources.base import CohortError
from tests.data import cohorts
from tests.reliability.mutations import NUMBERS, Mutate, bits
from tests.reliability.targets import Implausible, Target, check_frame, require

SHAPE = (8, 8, 3)
_UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
_INTEGERS = (0, 1, -1, 2, 3, 7, 8, 127, 255, 256, 348, 540, 1000, 2**15 - 1, -(2**15), 2**31 - 1, 2**62, -(2**63))
_DATATYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2304, -1, 999)


def _file(folder: Path, name: str, array: np.ndarray, kind: Any = nib.Nifti1Image, big: bool = False) -> str:
    header = kind.header_class(endianness=">") if big else None
    image = kind(array, cohorts.AFFINE, header)
    image.set_qform(cohorts.AFFINE, 1)
    image.set_sform(cohorts.AFFINE, 1)
    image.header.set_xyzt_units("mm", "sec")
    if array.dtype.kind == "f":
        image.header.set_slope_inter(0.5, 0.0)
    image.to_filename(folder / name)
    return name


def header(draw: Random, data: bytes) -> bytes:
    """The bytes of a NIfTI file with one to four fields of its header set to extremes."""
    kind, order = _kind(data)
    fields = kind.header_class.template_dtype
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        name = draw.choice(("dim", "pixdim", "vox_offset", "scl_slope", "scl_inter", "datatype", "bitpix", "qform_code",
                            "sform_code", "xyzt_units", "quatern_b", "quatern_c", "qoffset_x", "srow_x", "srow_y",
                            "srow_z", "magic", "sizeof_hdr", draw.choice(fields.names)))  # fmt: skip
        dtype, start = fields.fields[name][:2]
        base, count = (dtype.base, int(np.prod(dtype.shape or 1)))
        at = start + base.itemsize * draw.randrange(count)
        field = out[at : at + base.itemsize]
        out[at : at + base.itemsize] = _extreme(draw, name, base, bytes(field), order)
    return bytes(out)


def _extreme(draw: Random, name: str, dtype: np.dtype, old: bytes, order: str) -> bytes:
    dtype = dtype.newbyteorder(order)
    if dtype.kind == "f":
        value = float(np.frombuffer(old, dtype)[0])
        new = draw.choice((*NUMBERS, -value, value * 10, value / 1000, value * 1000, np.nextafter(value, 9), value + 1))
        with np.errstate(all="ignore"):
            return np.array(new, np.float64).astype(dtype).tobytes()
    if dtype.kind in "iu":
        value = draw.choice(_DATATYPES if name == "datatype" else _INTEGERS)
        return (value % (1 << 8 * dtype.itemsize)).to_bytes(dtype.itemsize, "little" if order == "<" else "big")
    return draw.randbytes(dtype.itemsize)


def _kind(data: bytes) -> tuple[Any, str]:
    """The class of an intact file, and the order of its bytes."""
    order = "<" if data[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
    size = struct.unpack(f"{order}i", data[:4])[0]
    return (nib.Nifti1Image if size == 348 else nib.Nifti2Image), order


def mutate(draw: Random, data: bytes) -> bytes:
    """A NIfTI file, plain or gzip, changed in its header, voxels, length or compression."""
    packed = data[:2] == b"\x1f\x8b"
    kind = draw.randrange(10)
    if kind == 0 and packed:
        return bits(draw, data)
    plain = gzip.decompress(data) if packed else data
    if kind < 7:
        plain = header(draw, plain)
    elif kind == 7:
        plain = bits(draw, plain)
    elif kind == 8:
        plain = plain[: draw.choice((0, 1, 3, 4, 347, 348, 352, 400, len(plain) - 1, draw.randrange(len(plain))))]
    else:
        plain += draw.choice((b"\0", b"\0" * 2**10, b"\0" * (2**21 if draw.random() < 0.98 else 2**27)))
    if draw.random() < 0.05:
        packed = not packed
    if not packed:
        return plain
    out = gzip.compress(plain, 1)
    if draw.random() < 0.05:
        extra = (b"\0" * 9, out, draw.randbytes(20), out[:-4] + b"\0" * 4)
        return draw.choice((out + draw.choice(extra), out[:-8], out[:10] + zlib.compress(plain)))
    return out


FILES = ("image.nii.gz", "scaled.nii", "big.nii", "second.nii.gz", "cine.nii.gz", "flat.nii")


def build_images(folder: Path) -> Sequence[tuple[str, Mutate]]:
    array = cohorts.image(SHAPE)
    _file(folder, "image.nii.gz", array)
    _file(folder, "scaled.nii", array.astype(np.float32))
    _file(folder, "big.nii", array.astype(">i2"), big=True)
    _file(folder, "second.nii.gz", array.astype(np.uint16), nib.Nifti2Image)
    _file(folder, "cine.nii.gz", cohorts.image((*SHAPE, 3)))
    _file(folder, "flat.nii", array[..., 0])
    return [(name, mutate) for name in FILES]


def build_predicted(folder: Path) -> Sequence[tuple[str, Mutate]]:
    importlib.import_module("morphojax.inference.files")  # here, as it takes seconds
    return build_images(folder)


def build_labels(folder: Path) -> Sequence[tuple[str, Mutate]]:
    _file(folder, "image.nii", cohorts.image(SHAPE))
    label = cohorts.label(SHAPE, radius=3)
    _file(folder, "label.nii.gz", label)
    _file(folder, "float.nii", 2 * label.astype(np.float32))
    _file(folder, "cine.nii.gz", np.stack([label] * 3, axis=-1))
    return [("label.nii.gz", mutate), ("float.nii", mutate), ("cine.nii.gz", mutate)]


def check_header(path: Path, volume: nifti.Volume) -> None:
    """Compares a volume with the header's own numbers, read here without nibabel."""
    data = path.read_bytes()
    data = zlib.decompressobj(31).decompress(data, 600) if data[:2] == b"\x1f\x8b" else data[:600]
    second = 540 in (int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big"))
    size = 540 if second else 348
    order = "<" if int.from_bytes(data[:4], "little") == size else ">"
    dim = struct.unpack_from(f"{order}8{'q' if second else 'h'}", data, 16 if second else 40)
    pixdim = struct.unpack_from(f"{order}8{'d' if second else 'f'}", data, 104 if second else 76)
    units = struct.unpack_from(f"{order}i", data, 500)[0] if second else data[123]
    claimed = tuple(dim[1 : 1 + dim[0]])
    own = tuple(n for n in volume.raw.shape)
    require(_without_ones(claimed) == _without_ones(own), f"shape {own}, the header claims {claimed}")
    spacing = np.array(pixdim[1:4]) * _UNIT_MM[units & 7]
    lengths = np.sqrt((volume.affine[:3, :3] ** 2).sum(axis=0))
    require(np.allclose(lengths, spacing, rtol=0.011), f"spacing {lengths}, the header claims {spacing} mm")


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def read_image(folder: Path, changed: Sequence[Path]) -> None:
    """As prepare does: reads, normalises and places every frame."""
    for path in changed:
        volume = nifti.load(path, 4 if path.name == "cine.nii.gz" else 3)
        check_header(path, volume)
        nifti.CineFrames(volume, "2", lambda _: None)
        for t in range(min(volume.frames, 5)):
            image = volume.values(t)
            check_frame(image, None, volume.affine, 1 << 24)
            try:
                grey = geometry.normalise(image, 0.5, 99.5)
            except ValueError as error:  # too close together for float32; prepare names the subject
                raise CohortError(f"{path}: {error}") from error
            require(grey.dtype == np.uint8, "not normalised")


def read_label(folder: Path, changed: Sequence[Path]) -> None:
    image = nifti.load(folder / "image.nii", 3)
    intact = cohorts.label(SHAPE, radius=3)
    for path in changed:
        volume = nifti.load(path, 4 if path.name == "cine.nii.gz" else 3)
        check_header(path, volume)
        for t in range(volume.frames):
            label = nifti.canonical_label(volume, anatomy.CONVENTIONS["acdc"], image, t)
            check_frame(image.values(), label, volume.affine)
        require(volume.drawn() == bool(volume.label_values().any()), f"{intact.shape}")


class _Run:
    """A stand-in for a finished segmentation run, which finds no heart."""

    structures = ("lv_cavity",)
    largest_component = False
    others = ()

    def place(self, image: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, geometry.Placement]:
        placement = geometry.place(image, affine, geometry.Grid(1.5, 16))
        return geometry.to_grid(geometry.normalise(image, 0.5, 99.5), placement, 1), placement

    def predict_members(self, slices: np.ndarray) -> list[np.ndarray]:
        return [np.stack([255.0 - slices, slices], -1).astype(np.float32)]

    def to_native(self, probabilities: np.ndarray, placement: geometry.Placement) -> np.ndarray:
        return geometry.to_native(probabilities, placement, 1)

    def classes(self, probabilities: np.ndarray, plane: str) -> np.ndarray:
        return probabilities.argmax(-1).astype(np.uint8)


def read_prediction(folder: Path, changed: Sequence[Path]) -> None:
    """As predict does: segments, and writes a label with the geometry of the image."""
    run: Any = _Run()
    files: Any = importlib.import_module("morphojax.inference.files")
    for path in changed:
        file, image = files.segment(run, "sax", path, path.name, stated=True)
        rate = file.heart_rate
        require(np.isnan(rate) or 25 <= rate <= 250, f"heart rate {rate}")
        output = folder.with_name(f"out-{path.name}")
        files.save(output, image, [stack.label for stack in file.frames], np.arange(256, dtype=np.uint8))
        try:
            written, volume = nib.load(output), nifti.load(path, 4 if len(file.frames) > 1 else 3)
            same = np.allclose(written.affine, image.affine, atol=1e-3, equal_nan=True)
            require(written.shape == image.shape and same, f"written {written.shape} {written.affine}")
            nifti.canonical_label(nifti.load(output, volume.raw.ndim), anatomy.CONVENTIONS["canonical"], volume)
        except CohortError as error:
            raise Implausible(f"the written label is refused: {error}") from error
        finally:
            output.unlink(missing_ok=True)


TARGETS = (
    Target("nifti_image", build_images, read_image, (CohortError,)),
    Target("nifti_label", build_labels, read_label, (CohortError,)),
    Target("predict", build_predicted, read_prediction, (ValueError,)),
)
