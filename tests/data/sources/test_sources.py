from morphojax.data.sources import SOURCES


def test_registry():
    assert set(SOURCES) == {"ukb_nifti", "ukb_dicom", "acdc", "mnms", "mnms2", "sunnybrook", "nifti_table", "synthetic"}
