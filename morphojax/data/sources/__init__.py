"""Cohort readers by name: `SOURCES[name](root, table=None, dictionary=None, frames="phases")`."""

from morphojax.data.sources.acdc import Acdc
from morphojax.data.sources.base import CohortError, Frame, Source, Subject, View
from morphojax.data.sources.mnms import Mnms
from morphojax.data.sources.mnms2 import Mnms2
from morphojax.data.sources.nifti_table import NiftiTable
from morphojax.data.sources.sunnybrook import Sunnybrook
from morphojax.data.sources.synthetic import Synthetic
from morphojax.data.sources.ukb_dicom import UkbDicom
from morphojax.data.sources.ukb_nifti import UkbNifti

SOURCES: dict[str, type] = {
    "ukb_nifti": UkbNifti,
    "ukb_dicom": UkbDicom,
    "acdc": Acdc,
    "mnms": Mnms,
    "mnms2": Mnms2,
    "sunnybrook": Sunnybrook,
    "nifti_table": NiftiTable,
    "synthetic": Synthetic,
}

__all__ = ["SOURCES", "CohortError", "Frame", "Source", "Subject", "View"]
