import argparse

import pytest

from morphojax import cohort_flags
from morphojax.commands.source import make_source
from morphojax.data.sources import SOURCES
from morphojax.data.sources.base import CohortError
from morphojax.data.tables.ukb_headers import UkbTableSpec


def flags(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cohort_flags.add_table(parser)
    return parser.parse_args(arguments)


def test_an_export_is_configured_in_the_sources_that_read_one(tmp_path):
    for name in ("ukb_nifti", "ukb_dicom", "nifti_table", "synthetic"):
        source = make_source(name, tmp_path, "all", flags("--table_fields=24103", "--table_visit=3"))
        assert isinstance(source, SOURCES[name]) and source.export == UkbTableSpec("24103", 3)
        assert (source.root, source.frames) == (tmp_path, "all")


@pytest.mark.parametrize("name", ["acdc", "mnms", "mnms2", "sunnybrook"])
def test_other_sources_have_no_choice_of_fields_or_visit(name, tmp_path):
    assert not hasattr(make_source(name, tmp_path, "phases", flags()), "export")
    for flag in ("--table_fields=24103", "--table_visit=3"):
        with pytest.raises(
            CohortError, match=f"the source {name} reads no UK Biobank export; leave out --table_fields"
        ):
            make_source(name, tmp_path, "phases", flags(flag))


def test_an_export_beside_another_cohort_is_read(tmp_path):
    (tmp_path / "t.csv").write_text("eid,31-0.0,24103-2.0,24103-3.0\n1,0,50,60\n2,1,51,61\n")
    for name, spec in (("mnms2", ()), ("ukb_nifti", ()), ("ukb_nifti", ("--table_visit=3", "--table_fields=24103"))):
        source = make_source(name, tmp_path, "phases", flags(f"--table={tmp_path / 't.csv'}", *spec))
        frame, schema = source.table()
        assert schema.names == ("lv_ejection_fraction_24103",) if spec else ("sex_31", "lv_ejection_fraction_24103")
        assert frame["lv_ejection_fraction_24103"].tolist() == ([60, 61] if spec else [50, 51])


def test_help_names_every_source_and_another_is_refused(tmp_path):
    assert set(cohort_flags.SOURCES) == set(SOURCES)
    assert UkbTableSpec().visit == cohort_flags.FIRST_IMAGING_VISIT
    with pytest.raises(CohortError, match="--source=acdcc is unknown: choose one of acdc, mnms, "):
        make_source("acdcc", tmp_path, "phases", flags())
