"""The embedded cohort: hearts made of solids that beat, scanned and tabulated, on disk in the UK Biobank NIfTI layout.

`generate` writes it; `Synthetic` reads it, as any UK Biobank folder is read.
"""

import json
from collections.abc import Sequence

from morphojax.data.sources.base import CohortError
from morphojax.data.sources.synthetic.cohort import MARK, generate
from morphojax.data.sources.ukb_nifti import UkbNifti


class Synthetic(UkbNifti):
    """Source over a folder that `generate` has filled."""

    name = "synthetic"

    def subjects(self) -> Sequence[str]:
        """Ids, sorted. Raises CohortError for a folder that `generate` did not make, or did not finish."""
        make = f"make it with python -m morphojax.data.sources.synthetic --output={self.root} --subjects=N"
        mark = self.root / MARK
        if not mark.is_file():
            raise CohortError(f"{self.root}: holds no synthetic cohort ({MARK} is not there); {make}")
        try:
            written = json.loads(mark.read_text())["subjects"]
        except (ValueError, KeyError, TypeError) as error:
            raise CohortError(f"{mark}: cannot be read ({error}); delete the folder and {make}") from error
        found = super().subjects() if written else []
        if len(found) < max(written, 1):
            raise CohortError(
                f"{self.root}: {len(found)} subjects of {written} are there, or it was never finished; {make}"
            )
        return found


__all__ = ["Synthetic", "generate"]
