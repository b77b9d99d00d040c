"""Attribution to image regions: occlusion, and its weight inside annotated structures."""

from collections.abc import Callable, Iterator

import numpy as np

from morphojax import anatomy
from morphojax.data.input.reading import read
from morphojax.data.store.dataset import Dataset
from morphojax.inference.similarity import Similarity, SimilarityError, batches

AT_ONCE = 32  # occluded copies that are encoded at once
MEAN_OF = 200  # at most so many training subjects give the mean grey value


def occlusion(
    function: Callable[[np.ndarray], np.ndarray], images: np.ndarray, valid: np.ndarray, patch: int, grey: np.ndarray
) -> np.ndarray:
    """The change of a function when one patch of one image is grey, [K,H/patch,W/patch].

    Args:
        function: [N,K,H,W,C] -> [N].
        images: [K,H,W,C]. valid: bool [K]; the change of other images is 0.
        patch: side of the patches in pixels; must divide H and W.
        grey: [C], the value of a patch.
    """
    k, h, w, _ = images.shape
    places = [(z, y, x) for z in np.flatnonzero(valid) for y in range(0, h, patch) for x in range(0, w, patch)]
    before = function(np.repeat(images[None], AT_ONCE, axis=0))[0]  # always as many, so that it compiles once
    changes = np.zeros((k, h // patch, w // patch))
    for start in range(0, len(places), AT_ONCE):
        part = places[start : start + AT_ONCE]
        copies = np.repeat(images[None], AT_ONCE, axis=0)
        for copy, (z, y, x) in zip(copies, part, strict=False):
            copy[z, y : y + patch, x : x + patch] = grey
        for (z, y, x), value in zip(part, function(copies), strict=False):
            changes[z, y // patch, x // patch] = before - value
    return changes


def preference(changes: np.ndarray, inside: np.ndarray, counted: np.ndarray) -> tuple[float, float]:
    """(fraction of the effect inside a structure, fraction of the area inside it).

    The effect of a patch is the absolute change, spread evenly over its pixels. NaN without images
    or without any effect.

    Args:
        changes: [K,H/patch,W/patch] of `occlusion`.
        inside: bool [K,H,W], the pixels of the structure.
        counted: bool [K], the images in which the structure is annotated.
    """
    k, rows, columns = changes.shape
    patch = inside.shape[1] // rows
    covered = inside.reshape(k, rows, patch, columns, patch).mean(axis=(2, 4))[counted]
    effect = np.abs(changes)[counted]
    if not effect.sum() > 0:
        return float("nan"), float("nan")
    return float((effect * covered).sum() / effect.sum()), float(covered.mean())


def check_patch(patch: int, size: int) -> None:
    """Raises SimilarityError, naming --patch, for a size that does not divide the images."""
    if patch < 1 or size % patch:
        choices = [p for p in range(2, size) if size % p == 0]
        raise SimilarityError(f"--patch={patch} does not divide images of {size} pixels: give one of {choices}")


def labelled_images(
    similarity: Similarity, dataset: Dataset, subjects: np.ndarray
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(subject, image float32 [K,H,W,C] in 0..1, slice_mask [K], label uint8 [K,H,W], annotated
    bool [K,structures]) of the subjects with an annotated image.

    With the frames of a cycle as channels, the label is that of the first.
    """
    planes = similarity.images.planes
    records, annotated = dataset.slices(*planes), _annotated(dataset, planes)
    for batch in batches(similarity, dataset, subjects):
        number = batch["record"][..., 0]
        known = np.where((number >= 0)[..., None], annotated[number], False)
        label = read(records, number, ("label",))["label"]
        image = batch["image"].astype(np.float32) / 255
        for i in np.flatnonzero(known.any(axis=(1, 2))):
            parts = {"image": image[i], "slice_mask": batch["slice_mask"][i]}
            yield int(batch["subject"][i]), parts | {"label": label[i], "annotated": known[i]}


def _annotated(dataset: Dataset, planes: tuple[str, ...]) -> np.ndarray:
    """Which structures are annotated in each record of `dataset.slices(*planes)`, bool [records,
    anatomy.STRUCTURES].
    """
    known = []
    for plane in planes:
        stacks = dataset.stacks(plane)
        of_plane = np.zeros((len(dataset.slices(plane)), len(anatomy.STRUCTURES)), bool)
        for first, count, structures in zip(stacks["first"], stacks["slices"], dataset.annotated(plane), strict=True):
            of_plane[first : first + count] = structures
        known.append(of_plane)
    return np.concatenate(known)


def mean_grey(similarity: Similarity, dataset: Dataset, seed: int) -> np.ndarray:
    """[C]: the mean of the images of at most MEAN_OF training subjects, in 0..1."""
    subjects = similarity.train
    if len(subjects) > MEAN_OF:
        subjects = np.random.default_rng(seed).choice(subjects, MEAN_OF, replace=False)
    total, count = np.zeros(similarity.images.channel_count), 0
    for batch in batches(similarity, dataset, subjects):
        shown = batch["image"][batch["slice_mask"]]
        total, count = total + shown.mean(axis=(1, 2)).sum(axis=0), count + len(shown)
    return (total / count / 255).astype(np.float32)


def preferences(
    similarity: Similarity, dataset: Dataset, subjects: np.ndarray, patch: int, most: int, seed: int
) -> dict[str, np.ndarray]:
    """For every annotated structure, [n,2] of `preference` by subject, for at most `most` of the
    subjects with an annotated image, drawn by the seed. {} where none has one.
    """
    check_patch(patch, dataset.manifest.grid.size)
    grey = mean_grey(similarity, dataset, seed)
    order = np.random.default_rng(seed).permutation(subjects)
    found: dict[str, list[tuple[float, float]]] = {}
    done = 0
    for start in range(0, len(order), most):  # further subjects where some have no annotated image
        for subject, parts in labelled_images(similarity, dataset, order[start : start + most]):
            if done == most:
                break
            done += 1
            row = np.asarray(similarity.embed_rows(similarity.inputs[subject][None]))[0]

            def alike(images: np.ndarray, valid: np.ndarray = parts["slice_mask"], row: np.ndarray = row) -> np.ndarray:
                return np.asarray(similarity.embed_images(images, np.repeat(valid[None], len(images), 0))) @ row

            changes = occlusion(alike, parts["image"], parts["slice_mask"], patch, grey)
            for structure, counted in zip(anatomy.STRUCTURES, parts["annotated"].T, strict=True):
                if counted.any():
                    inside = parts["label"] == anatomy.LABEL_ID[structure]
                    found.setdefault(structure, []).append(preference(changes, inside, counted))
    return {structure: np.array(rows) for structure, rows in found.items()}
