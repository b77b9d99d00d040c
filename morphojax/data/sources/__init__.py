"""Cohort readers by name. `SOURCES[name](root, table=None, dictionary=None)` reads nothing until asked."""

from morphojax.data.sources.acdc import Acdc
from morphojax.data.sources.base import CohortError, Frame, Source, Subject, View
from morphojax.data.sources.sunnybrook import Sunnybrook
from morphojax.data.sources.synthetic import Synthetic
from morphojax.data.sources.ukb_nifti import UkbNifti

SOURCES: dict[str, type] = {
    "ukb_nifti": UkbNifti,
    "acdc": Acdc,
    "sunnybrook": Sunnybrook,
    "synthetic": Synthetic,
}

__all__ = ["SOURCES", "CohortError", "Frame", "Source", "Subject", "View"]
