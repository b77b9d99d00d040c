"""Arrays in memory, as the volumes and labels that `inference` reads from files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from morphojax import anatomy
from morphojax.data import geometry
from morphojax.data.errors import NamedError
from morphojax.data.geometry import spacing_of
from morphojax.data.sources import nifti

_T = TypeVar("_T")


class ModelError(NamedError):
    """An argument that a model cannot use. The message names it and says what to do."""


def of_each(work: Callable[[nifti.Volume, tuple[int, ...]], _T], image: Any, affine: Any) -> _T | list[_T]:
    """work(volume, shape of the image) of one image, or of each of a list."""
    if not isinstance(image, list | tuple):
        return work(*volume("image", image, affine))
    several = isinstance(affine, list | tuple) and any(np.ndim(one) == 2 for one in affine)
    affines = affine if several else [affine] * len(image)
    if len(affines) != len(image):
        raise ModelError(f"affine: a list of {len(affines)} for {len(image)} images; give one for all, or one each")
    return [work(*volume(f"image {i}", *pair)) for i, pair in enumerate(zip(image, affines, strict=True))]


def volume(name: str, image: Any, affine: Any) -> tuple[nifti.Volume, tuple[int, ...]]:
    """An array with its affine, or a nibabel image without; and its shape.

    Raises ModelError for other arguments, CohortError for an image that cannot be used; both name
    it by `name`.
    """
    if hasattr(image, "dataobj") and hasattr(image, "header"):
        if affine is not None:
            raise ModelError(f"{name}: a nibabel image has an affine of its own; leave out `affine`")
        if not hasattr(image.header, "get_xyzt_units"):
            raise ModelError(f"{name}: not a NIfTI image but {type(image).__name__}; convert it with nibabel")
        return nifti.from_image(Path(name), image), image.shape
    if affine is None:
        raise ModelError(f"{name}: an array needs `affine`, 4 x 4 numbers, voxel -> mm")
    array = np.asarray(image)
    return nifti.from_array(name, array, np.asarray(affine)), array.shape


def spacing_mm(given: Any) -> tuple[float, float, float]:
    """Voxel size in mm of an affine or spacing."""
    numbers = np.asarray(given)
    if numbers.dtype.kind not in "iuf" or numbers.shape not in ((4, 4), (3,)):
        raise ModelError(
            f"affine: {numbers.dtype} of shape {numbers.shape}; give numbers [4, 4], or the spacing [3] in mm"
        )
    spacing = np.array(spacing_of(numbers)) if numbers.ndim == 2 else numbers
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ModelError(f"affine: a spacing of {spacing.tolist()} mm; it must be positive")
    x, y, z = map(float, spacing)
    return x, y, z


def label_frames(name: str, mask: Any, plane: str) -> list[np.ndarray]:
    """uint8 [X, Y, Z] of canonical ids for each frame of a mask [X, Y], [X, Y, Z] or
    [X, Y, Z, T].
    """
    array = np.asarray(mask)
    if array.dtype.kind not in "iu" or not 2 <= array.ndim <= 4 or 0 in array.shape:
        raise ModelError(
            f"{name}: {array.dtype} of shape {array.shape}; give whole numbers [X, Y], [X, Y, Z] or with T"
        )
    if array.min() < 0 or array.max() > len(anatomy.STRUCTURES):
        raise ModelError(f"{name}: ids from {array.min()} to {array.max()}; canonical ids are 0 to 5")
    array = array.astype(np.uint8).reshape(*array.shape, *[1] * (4 - array.ndim))
    try:
        geometry.check_slices(plane, array.shape)
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from error
    return list(np.moveaxis(array, -1, 0))
