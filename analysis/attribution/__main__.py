"""Which table columns, and which image regions, does the similarity of a pretraining depend on?

    python -m analysis.attribution --run=runs/pretrain_sax --split=val --output=results/attribution

The similarity is the cosine of the projected embeddings of a subject's images and of its own table
row, whatever config.table.control was in training. Four methods, described in docs/studies.md:
integrated gradients, permutation of columns and groups, groups replaced by the mean row of the
training subjects, and occlusion of the images.

Writes to --output:
    attribution.csv   method, kind, name, group, measure, n, mean, low, high: a row per method,
                      measure and column, group or structure; no row is of a single subject
    attribution.png   a bar per column
    attribution.md    the groups, the columns that matter most, and what this does not show
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from analysis.attribution import image, report
from analysis.attribution.rows import Retrieval, by_feature, integrated_gradients, other_images
from morphojax.data.store.dataset import Dataset
from morphojax.data.store.splits import SPLITS
from morphojax.inference.flags import add_checkpoint, make_parser
from morphojax.inference.similarity import Similarity, SimilarityError, image_embeddings, load_similarity, subjects_of
from morphojax.tasks import cohort


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


def parser() -> argparse.ArgumentParser:
    made = make_parser("analysis.attribution", __doc__)
    made.add_argument("--run", required=True, help="directory of a pretraining, or one of its checkpoint folders")
    made.add_argument("--output", type=Path, required=True, help="folder for the files")
    made.add_argument("--split", default="val", choices=SPLITS, help="subjects to measure on (default: val)")
    made.add_argument("--dataset", help="prepared dataset, or `synthetic` (default: the dataset of the run's config)")
    made.add_argument("--objective", default="", help="image-table objective, where the run has several")
    made.add_argument("--steps", type=_positive, default=512, help="of integrated gradients (default: 512)")
    made.add_argument("--permutations", type=_positive, default=20, help="of each column and group (default: 20)")
    made.add_argument("--patch", type=_positive, default=8, help="side of an occluded patch in pixels (default: 8)")
    made.add_argument(
        "--occluded_subjects", type=_positive, default=16, help="at most so many subjects are occluded (default: 16)"
    )
    made.add_argument("--seed", type=int, default=0, help="of permutations and of the choice of occluded subjects")
    add_checkpoint(made, default="last", help_default="last")
    return made


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        return _main(options)
    except (ValueError, OSError) as error:  # errors of the package that a user can mend are ValueErrors
        print(f"error: {error}", file=sys.stderr)
        return 2


def _main(options: argparse.Namespace) -> int:
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
