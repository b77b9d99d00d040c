"""The embedded synthetic cohort: beating hearts made of solids, with images, labels and a table.

`generate` writes it in the UK Biobank NIfTI layout, which `Synthetic` reads.
"""

from collections.abc import Sequence

from morphojax.data import json_text
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.synthetic.cohort import MARK, MARK_SHAPE, generate
from morphojax.data.sources.ukb_nifti import UkbNifti


class Synthetic(UkbNifti):
    """Source over a folder that `generate` has filled."""

    name = "synthetic"

    def subjects(self) -> Sequence[str]:
        """Ids, sorted. Raises CohortError for a folder that `generate` did not write completely."""
        make = f"make it with python -m morphojax.data.sources.synthetic --output={self.root} --subjects=N"
        mark = self.root / MARK
        if not mark.is_file():
            raise CohortError(f"{self.root}: holds no synthetic cohort ({MARK} is absent); {make}")
        try:
            expected = json_text.parse(mark.read_bytes(), MARK_SHAPE)["subjects"]
        except (ValueError, OSError) as error:
            raise CohortError(f"{mark}: cannot be read ({error}); delete the folder and {make}") from error
        subjects = super().subjects() if expected else []
        if len(subjects) < max(expected, 1):
            raise CohortError(f"{self.root}: has {len(subjects)} subjects of {expected}, or was never finished; {make}")
        return subjects


__all__ = ["Synthetic", "generate"]
