"""Pseudonyms and the file of their key."""

import pickle

import pytest

from morphojax.data.prepare.pseudonyms import KeyFileError, Pseudonyms

KEY = Pseudonyms(bytes(range(32)))
IDS = [f"patient{n:03d}" for n in range(1, 8)]


def test_a_pseudonym_depends_on_the_key_and_the_id_alone():
    assert KEY("patient001") == "dc7d6296820f5260"  # openssl dgst -mac HMAC says the same
    assert KEY("patient002") == Pseudonyms(KEY.key)("patient002")
    other = Pseudonyms(b"k" * 32)
    assert not {KEY(i) for i in IDS} & {other(i) for i in IDS} and other.check != KEY.check
    assert pickle.loads(pickle.dumps(KEY)) == KEY  # it travels to worker processes
    assert KEY.key.hex() not in repr(KEY) and repr(KEY.key) not in repr(KEY)
    assert KEY.hide("12", "/a/12/12_b12.nii: shape (12, 120, 312)") == "/a/X/X_bX.nii: shape (X, 120, 312)".replace(
        "X", KEY("12")
    )


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "xy" * 32, "AB" * 32, "\xe9"])
def test_a_file_that_holds_no_key_is_refused(text, tmp_path):
    path = tmp_path / "k"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(KeyFileError, match=r"k: (holds no key|cannot be read as a key)") as error:
        Pseudonyms.read(path)
    assert not text or text not in str(error.value)
    with pytest.raises(KeyFileError, match="no such key"):
        Pseudonyms.read(tmp_path / "absent")


def test_the_slower_of_two_processes_takes_the_key_of_the_faster(tmp_path, monkeypatch):
    faster = Pseudonyms.make(tmp_path / "k")
    answers = iter([False, True])
    monkeypatch.setattr(type(tmp_path), "exists", lambda self: next(answers, True))
    assert Pseudonyms.read_or_make(tmp_path / "k") == (faster, False)
    monkeypatch.undo()
    with pytest.raises(KeyFileError, match="cannot be written"):
        Pseudonyms.read_or_make(tmp_path / "absent/k")
