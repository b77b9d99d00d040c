"""What `morphojax attribution` does, by its flags."""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from analysis.attribution import image, report
from analysis.attribution.rows import Retrieval, by_feature, integrated_gradients, other_images
from morphojax.commands.output import writable
from morphojax.data.store.dataset import Dataset
from morphojax.exit_codes import COMPLETE
from morphojax.inference.similarity import Similarity, SimilarityError, image_embeddings, load_similarity, subjects_of
from morphojax.tasks import cohort


def run(options: argparse.Namespace) -> int:
    writable(options.output)
    similarity, dataset = load_similarity(
        options.run,
        lambda config: cohort.open_configured(config["data"], options.dataset),
        which=options.checkpoint,
        weights=options.weights,
        objective=options.objective,
    )
    results, about = attribute(similarity, dataset, options)
    print("\n".join(about.lines()))
    print("\n".join(f"written: {path}" for path in report.write(options.output, results, about)))
    return COMPLETE


def attribute(
    similarity: Similarity, dataset: Dataset, options: argparse.Namespace
) -> tuple[pd.DataFrame, report.About]:
    """The results, and what the report says of them.

    Raises SimilarityError where fewer than two subjects of the split have images and a row.
    """
    image.check_patch(options.patch, dataset.manifest.grid.size)
    subjects, images = _subjects(similarity, dataset, options.split)
    rows = similarity.inputs[subjects]
    groups = {
        group: np.concatenate([similarity.columns[name] for name in names])
        for group, names in similarity.groups.items()
    }
    group_of = {name: group for group, names in similarity.groups.items() for name in names} | {g: g for g in groups}
    features = {"column": similarity.columns, "group": groups}

    def own(inputs: Any, anchors: Any) -> jax.Array:
        return jnp.sum(similarity.embed_rows(inputs) * anchors, axis=-1)

    anchors = {report.SIMILARITY: images, report.SPECIFIC: images - other_images(images)}
    integrals = {
        measure: integrated_gradients(own, rows, similarity.baseline, of, options.steps)
        for measure, of in anchors.items()
    }
    gradients = {measure: attributions for measure, (attributions, _) in integrals.items()}
    retrieval = Retrieval(similarity.embed_rows, images, rows, similarity.batch_size)
    entries: list[Any] = [("intact", "all", "all", "", retrieval.intact)]
    for kind, of_kind in features.items():
        falls = retrieval.permutation(of_kind, options.permutations, options.seed)
        entries += report.entries(report.GRADIENTS, kind, by_feature(gradients, of_kind), group_of)
        entries += report.entries(report.PERMUTED, kind, falls, group_of)
    replaced = retrieval.replaced(groups, similarity.baseline)
    entries += report.entries(report.REPLACED, "group", replaced, group_of)
    found = image.preferences(similarity, dataset, subjects, options.patch, options.occluded_subjects, options.seed)
    entries += report.structure_entries(found)
    about = report.About(
        objective=similarity.objective,
        split=options.split,
        subjects=len(subjects),
        batch_size=similarity.batch_size,
        permutations=options.permutations,
        steps=options.steps,
        error=max(error for _, error in integrals.values()),
        patch=options.patch,
    )
    return report.table(entries), about


def _subjects(similarity: Similarity, dataset: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The subjects of the split with images and a row, and their image embeddings."""
    chosen = subjects_of(similarity, dataset, split)
    subjects, images = image_embeddings(similarity, dataset, chosen) if len(chosen) else (chosen, np.zeros((0, 1)))
    if len(subjects) < 2:
        raise SimilarityError(
            f"--split={split}: {len(subjects)} subjects have images and a table row, and a comparison "
            "with the rows of others needs two; choose another split"
        )
    return subjects, images
