import multiprocessing
import pickle
import re
import threading

import numpy as np
import pytest

from morphojax.data.store.records import RecordError, Records, ShardWriter, encode, write_atomically, write_once
from tests.disk import full_disk


def _write(root, count=25, per_shard=10):
    writer = ShardWriter(root, "sax/slices", per_shard)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (count, 40, 40), dtype=np.uint8)
    for i in range(count):
        writer.write(encode({"image": pixels[i], "number": i}))
    return writer.close(), pixels


def test_records_come_back_at_random_across_shards(tmp_path):
    shards, pixels = _write(tmp_path)
    assert [s.records for s in shards] == [10, 10, 5]
    records = Records(tmp_path, shards)
    assert len(records) == 25
    for i in (24, 0, 10, 9, -1):
        assert records[i]["number"] == i % 25
        np.testing.assert_array_equal(records[i]["image"], pixels[i])
    assert [r["number"] for r in records] == list(range(25))
    with pytest.raises(IndexError):
        records[25]


def test_records_are_picklable_and_readable_in_another_process(tmp_path):
    records = Records(tmp_path, _write(tmp_path)[0])
    assert records[3]["number"] == 3
    assert pickle.loads(pickle.dumps(records))[13]["number"] == 13
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_number, (records, 21)) == 21


def _number(records, index):
    return records[index]["number"]


def test_the_same_records_make_the_same_bytes(tmp_path):
    first, second = _write(tmp_path / "a")[0], _write(tmp_path / "b")[0]
    assert first == second  # names, sizes and hashes


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_a_truncated_shard_is_named(tmp_path, keep):
    shards, _ = _write(tmp_path)
    path = tmp_path / shards[1].path
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(RecordError, match=r"slices-00001.array_record has \d+ bytes"):
        Records(tmp_path, shards)[15]
    assert Records(tmp_path, shards)[5]["number"] == 5


def test_a_corrupt_shard_is_named(tmp_path):
    shards, _ = _write(tmp_path)
    path = tmp_path / shards[1].path
    data = bytearray(path.read_bytes())
    damaged = slice(200, 12000)
    data[damaged] = bytes(255 - b for b in data[damaged])
    path.write_bytes(data)
    with pytest.raises(RecordError, match=r"slices-00001\.array_record"):
        list(Records(tmp_path, shards))
    with pytest.raises(RecordError, match=r"slices-00001.array_record does not hold"):
        shards[1].check(tmp_path, thorough=True)


def test_a_missing_shard_is_named(tmp_path):
    shards, _ = _write(tmp_path)
    (tmp_path / shards[2].path).unlink()
    with pytest.raises(RecordError, match=r"slices-00002.array_record is missing"):
        Records(tmp_path, shards)[24]


def test_an_atomic_write_leaves_all_or_nothing(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", b"old")
    write_atomically(tmp_path / "a", b"new")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "a", b"lost")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("links", [True, False])
def test_of_many_writers_at_once_one_writes(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(PermissionError()))
    barrier, wrote, read = threading.Barrier(16), [], []

    def write(n):
        barrier.wait()
        wrote.append(write_once(tmp_path / "f", bytes([n]) * 100_000))
        read.append((tmp_path / "f").read_bytes())

    for thread in (threads := [threading.Thread(target=write, args=(n,)) for n in range(16)]):
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wrote) == 1 and [p.name for p in tmp_path.iterdir()] == ["f"]
    assert len({*read}) == 1 or not links  # without links, a reader may come too early
    with pytest.raises(OSError):
        write_once(tmp_path / "absent/f", b"")


def test_a_full_disk_names_the_file_and_keeps_the_one_before(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"before")
    with full_disk(1000), pytest.raises(OSError, match=re.escape(str(path))):
        write_atomically(path, bytes(5000))
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("room", [0, 4000, 90_000])
def test_a_full_disk_under_a_shard_names_it(tmp_path, room):
    with full_disk(room), pytest.raises(OSError, match=r"slices-0000\d.array_record.partial") as caught:
        _write(tmp_path, per_shard=100, count=100)
    assert caught.value.strerror
