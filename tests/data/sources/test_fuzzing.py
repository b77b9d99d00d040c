"""Random damage to files: a reader accepts them or raises its own error, never another one."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from morphojax.data.prepare import withdrawals
from morphojax.data.prepare.pseudonyms import KeyFileError, Pseudonyms
from morphojax.data.sources import table_files
from morphojax.data.sources.acdc import Acdc
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.contours import labels_for
from morphojax.data.sources.cvi42 import read_contours
from morphojax.data.sources.mnms import Mnms
from morphojax.data.sources.mnms2 import Mnms2
from morphojax.data.sources.nifti_table import NiftiTable
from morphojax.data.sources.ukb_nifti import UkbNifti
from tests.data import cohorts, cvi42_files
from tests.data.sources import challenge_files
from tests.data.tables.ukb_exports import export

TOKENS = (
    "",
    ",",
    '"',
    "\n",
    "\r",
    "0",
    "-1",
    "9" * 5000,
    "1e3",
    "nan",
    "٣",
    "²",
    "\x00",
    "\ufeff",
    ": ",
    "=",
    ";",
    "\t",
    " ",
)
XML = ("<", ">", "</", "&a;", "<!--", 'key="', "<Point:x>", "<!DOCTYPE a>", "1e999")
fuzzed = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,  # the same files in every run
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def mangled(text: str, tokens: tuple[str, ...] = TOKENS):
    """The bytes of a text with characters, cells or lines changed, repeated or removed."""
    piece = st.one_of(st.sampled_from(tokens), st.text(max_size=3), st.sampled_from(text.split("\n")))
    change = st.tuples(st.integers(0, len(text)), st.integers(0, 4), piece)
    end = st.one_of(st.just(b""), st.binary(max_size=3))

    def apply(changes: list[tuple[int, int, str]], length: int, tail: bytes) -> bytes:
        out = text
        for at, lost, new in changes:
            out = out[:at] + new + out[at + lost :]
        return out.encode(errors="surrogatepass")[:length] + tail

    cut = st.one_of(st.just(1 << 30), st.integers(0, len(text)))
    return st.builds(apply, st.lists(change, max_size=5), cut, end)


TRIANGLE = [(2, 2), (9, 2), (2, 9)]
WORKSPACE = cvi42_files.workspace(
    {"1.3": cvi42_files.drawn("saendocardialContour", TRIANGLE), "1.4": cvi42_files.drawn("lalaContour", TRIANGLE, 1)}
)


@fuzzed
@given(data=mangled(WORKSPACE, TOKENS + XML))
def test_workspace(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "heart.cvi42wsx"
    path.write_bytes(data)
    try:
        contours = read_contours(path)
        labels_for(path, [list(contours)], contours, (40, 40))
    except CohortError as error:
        assert path.name in str(error)


@fuzzed
@given(data=mangled("ED: 1\nES: 9\nNbFrame: 30\nGroup: NOR\n"))
def test_info_cfg(tmp_path: Path, data: bytes) -> None:
    if not (tmp_path / "training").is_dir():
        cohorts.acdc(tmp_path, subjects=1, table=False)
    (tmp_path / "training/patient001/Info.cfg").write_bytes(data)
    try:
        Acdc(tmp_path).read("patient001", ("sax",))
    except CohortError as error:
        assert "patient001" in str(error)


@fuzzed
@given(
    data=mangled("subject,dose,kind\na,1.5,x\nb,,y\n"),
    described=mangled("name,kind,group,unit\ndose,continuous,lifestyle,mg\nkind,categorical,demographic,\n"),
)
def test_table_and_dictionary(tmp_path: Path, data: bytes, described: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    (tmp_path / "d.csv").write_bytes(described)
    try:
        frame, schema = table_files.read_table(tmp_path / "t.csv", "subject", tmp_path / "d.csv")
    except CohortError as error:
        assert "t.csv" in str(error) or "d.csv" in str(error)
    else:
        assert frame.index.is_unique and list(frame.columns) == list(schema.names)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> str:
    return export(tmp_path_factory.mktemp("export") / "t.csv").read_text()


@fuzzed
@given(draw=st.data())
def test_export_of_uk_biobank(tmp_path: Path, exported: str, draw) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(draw.draw(mangled(exported)))
    try:
        table = UkbNifti(tmp_path, table=path).table()
    except CohortError as error:
        assert path.name in str(error)
    else:
        assert table is not None and table[0].index.is_unique


@fuzzed
@given(data=mangled("1000017\n1000028,\n\n"), key=mangled("0123456789abcdef" * 4 + "\n"))
def test_withdrawals_and_key(tmp_path: Path, data: bytes, key: bytes) -> None:
    (tmp_path / "w.csv").write_bytes(data)
    (tmp_path / "k").write_bytes(key)
    try:
        withdrawals.read_list(tmp_path / "w.csv")
    except ValueError as error:
        assert "w.csv" in str(error)
    try:
        Pseudonyms.read(tmp_path / "k")
    except KeyFileError as error:
        assert "0123456789abcdef" not in str(error)


MNMS = challenge_files.MNMS_HEADER + "0,A1,Siemens,A,1,0,3,50,HCM,M,180,\n1,B2,Philips,B,2,1,4,60,DCM,F,,70\n"


@fuzzed
@given(mnms=mangled(MNMS), mnms2=mangled("SUBJECT_CODE,DISEASE,FIELD\n1,NOR,1.5\n2,,3\n,,\n"))
def test_information_of_mnms(tmp_path: Path, mnms: bytes, mnms2: bytes) -> None:
    if not (tmp_path / "dataset").is_dir():
        challenge_files.mnms(tmp_path)
        (tmp_path / "dataset").mkdir()
    (tmp_path / challenge_files.MNMS_CSV).write_bytes(mnms)
    (tmp_path / "dataset_information.csv").write_bytes(mnms2)
    for read in (Mnms(tmp_path).table, Mnms2(tmp_path).table, lambda: Mnms(tmp_path)._phases("A1")):
        try:
            read()
        except CohortError as error:
            assert ".csv" in str(error)


@fuzzed
@given(
    data=mangled(
        challenge_files.MAPPING_HEADER + challenge_files.ED + "\n" + challenge_files.ES + "\nq,sax,,cine.nii.gz,,,0,3\n"
    )
)
def test_mapping(tmp_path: Path, data: bytes) -> None:
    if not (tmp_path / "mapping.csv").exists():
        challenge_files.mapped(tmp_path, "")
    (tmp_path / "mapping.csv").write_bytes(data)
    source = NiftiTable(tmp_path)
    try:
        for subject in source.subjects():
            source.read(subject, ("sax",))
    except CohortError as error:
        assert "mapping.csv" in str(error) or ".nii" in str(error)
