"""Weight files are read without PyTorch, to the bit, and nothing in them is ever run."""

import collections
import io
import json
import os
import pickle
import re
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from morphojax.train import weights
from morphojax.train.weights import WeightsError, read


class Global:
    """Pickled as the call of a global by its name, whether or not it is installed here."""

    def __init__(self, module, name, *args):
        self.module, self.name, self.args = module, name, args


class Tensor:
    def __init__(self, values, offset=None, size=None, stride=None):
        self.values = np.array(values, order="C")
        self.offset = offset or 0
        self.size = self.values.shape if size is None else size
        self.stride = tuple(s // self.values.itemsize for s in self.values.strides) if stride is None else stride


STORAGE = {"float32": "FloatStorage", "int64": "LongStorage", "bfloat16": "BFloat16Storage", "bool": "BoolStorage"}


def text(value):
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def encode(value, storages):
    """A pickle's opcodes for a value, written by hand so that PyTorch is not needed."""
    if isinstance(value, dict):
        items = b"".join(encode(k, storages) + encode(v, storages) for k, v in value.items())
        return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    if isinstance(value, tuple):
        return pickle.MARK + b"".join(encode(v, storages) for v in value) + pickle.TUPLE
    if isinstance(value, Global):
        return f"c{value.module}\n{value.name}\n".encode() + encode(value.args, storages) + pickle.REDUCE
    if isinstance(value, Tensor):
        key = str(len(storages))
        storages[key] = value.values.tobytes()
        kind = f"ctorch\n{STORAGE[value.values.dtype.name]}\n".encode()
        count = encode(value.values.size, storages)
        storage = (
            pickle.MARK + text("storage") + kind + text(key) + text("cpu") + count + pickle.TUPLE + pickle.BINPERSID
        )
        rest = b"".join(encode(v, storages) for v in (value.offset, value.size, value.stride))
        hooks = pickle.NEWFALSE + b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE
        return (
            b"ctorch._utils\n_rebuild_tensor_v2\n" + pickle.MARK + storage + rest + hooks + pickle.TUPLE + pickle.REDUCE
        )
    if isinstance(value, int):
        return pickle.BININT + value.to_bytes(4, "little", signed=True)
    return text(value)


def write(path, value, byteorder=b"little", drop=(), cut=0):
    """A file as torch.save writes it. drop: storages left out; cut: bytes taken off each."""
    storages = {}
    body = pickle.PROTO + b"\x02" + encode(value, storages) + pickle.STOP
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/byteorder", byteorder)
        for key, data in storages.items():
            if key not in drop:
                archive.writestr(f"archive/data/{key}", data[: len(data) - cut])
    return path


def test_a_state_dict_is_read_to_the_bit(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    state = {
        "plain": Tensor(x),
        "transposed": Tensor(x, size=(4, 3), stride=(1, 4)),
        "part": Tensor(x, offset=5, size=(2, 2), stride=(4, 1)),
        "expanded": Tensor(x, offset=1, size=(2, 3), stride=(0, 0)),
        "nothing": Tensor(x, size=(0, 4), stride=(4, 1)),
        "scalar": Tensor(np.array(7)),
        "half": Tensor(x.astype(ml_dtypes.bfloat16)),
        "flag": Tensor(np.array([True, False])),
        "parameter": Global("torch._utils", "_rebuild_parameter", Tensor(x + 1), 1, {}),
    }
    found = read(write(tmp_path / "a.pt", state))
    expected = {
        "plain": x,
        "transposed": x.T,
        "part": x.ravel()[[[5, 6], [9, 10]]],
        "expanded": np.ones((2, 3), np.float32),
        "nothing": np.zeros((0, 4), np.float32),
        "scalar": np.array(7),
        "half": x.astype(ml_dtypes.bfloat16),
        "flag": np.array([True, False]),
        "parameter": x + 1,
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype and found[name].shape == array.shape


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_checkpoint_is_read_and_what_surrounds_its_weights_stays_empty(tmp_path, key):
    settings = {
        "a": Global("argparse", "Namespace"),
        "b": Global("omegaconf.dictconfig", "DictConfig", "x"),
        "c": Global("pytorch_lightning.utilities.parsing", "AttributeDict"),
        "d": Global("__builtin__", "set", ("a", "b")),
    }
    checkpoint = {"epoch": 3, "hyper_parameters": settings, key: {"w": Tensor(np.ones(2, np.float32)), "version": 1}}
    found = read(write(tmp_path / "a.ckpt", checkpoint))
    assert list(found) == ["w"] and found["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("torch.serialization", "load"),
    ],
)
def test_a_pickle_that_calls_anything_else_is_refused(tmp_path, module, name):
    marker = tmp_path / "ran"
    path = write(tmp_path / "a.ckpt", {"state_dict": {"w": Global(module, name, f"touch {marker}")}})
    with pytest.raises(WeightsError, match=rf"a\.ckpt: asks to call {re.escape(module)}\.{name}"):
        read(path)
    assert not marker.exists()


def test_a_malicious_object_is_refused_and_nothing_runs(tmp_path):
    marker = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        body = pickle.dumps(collections.OrderedDict(w=Malicious()), protocol)
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            archive.writestr("a/data.pkl", body)
        with pytest.raises(WeightsError, match=r"asks to call \w+\.system"):
            read(tmp_path / "a.pth")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("tensor", "changes", "message"),
    [
        ({"size": (2, 7), "stride": (6, 1)}, {}, r"reaches beyond its storage of 12 values"),
        ({"size": (12,), "stride": (1,), "offset": 1}, {}, r"reaches beyond its storage"),
        ({"size": (2,), "stride": (-1,), "offset": 3}, {}, r"impossible size \(2,\), stride \(-1,\)"),
        ({"size": (2, 2), "stride": (1,)}, {}, r"impossible size"),
        ({"size": (2**12, 2**12), "stride": (0, 0)}, {}, r"repeats its storage of 12 values; save it .*contiguous"),
        ({}, {"drop": ("0",)}, r"storage 0 is not in the file"),
        ({}, {"cut": 4}, r"storage 0 has 44 bytes instead of 12 values of float32"),
        ({}, {"byteorder": b"big"}, r"big-endian"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, tensor, changes, message):
    path = write(tmp_path / "a.pt", {"w": Tensor(np.zeros(12, np.float32), **tensor)}, **changes)
    with pytest.raises(WeightsError, match=rf"a\.pt: .*{message}"):
        read(path)


def test_other_files_are_told_apart(tmp_path):
    def told(name, data, message):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WeightsError, match=rf"{name}: .*{message}"):
            read(tmp_path / name)

    whole = write(tmp_path / "a.pt", {"w": Tensor(np.zeros(400, np.float32))}).read_bytes()
    told("cut.pt", whole[:-100], "damaged; download it again")
    told("old.pt", pickle.dumps(0x1950A86A20F9469CFC6C, 2), "PyTorch before 1.6.*torch.save")
    stored = safetensors.numpy.save({"w": np.zeros(4, np.float32)})
    told("cut.safetensors", stored[:-4], "damaged, no safetensors")
    told("no.safetensors", b"x", "damaged, no safetensors")
    told("a.txt", b"x", r"weight files end in \.safetensors")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/y", "z")
    told("zip.pt", buffer.getvalue(), r"not of torch\.save")
    with pytest.raises(WeightsError, match=r"none\.pt: no such file"):
        read(tmp_path / "none.pt")
    with pytest.raises(WeightsError, match=r"b\.pt: holds no tensors by name"):
        read(write(tmp_path / "b.pt", {"epoch": 3}))


def test_a_storage_that_unpacks_to_far_more_is_refused_unread(tmp_path):
    zeros = write(tmp_path / "a.pt", {"w": Tensor(np.zeros(2**24, np.float32))})
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(zeros) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    tracemalloc.start()
    with pytest.raises(WeightsError, match=r"packed\.pt: damaged: archive/data/0 would unpack to 67108864 bytes"):
        read(packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_small_expanded_tensors_are_read(tmp_path):
    path = write(tmp_path / "a.pt", {"w": Tensor(np.full(1, 3, np.float32), size=(2, 3), stride=(0, 0))})
    np.testing.assert_array_equal(read(path)["w"], np.full((2, 3), 3))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F4", "X9"])
def test_a_dtype_that_numpy_lacks_is_an_error_that_names_the_file(tmp_path, dtype):
    header = json.dumps({"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, 2 if dtype == "F4" else 4]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 if dtype == "F4" else 4))
    with pytest.raises(WeightsError, match=r"a\.safetensors: .*save it as float32"):
        read(path)


def test_safetensors_are_read_with_their_dtypes(tmp_path):
    arrays = {"a": np.arange(3, dtype=np.float32), "b": np.ones(2, ml_dtypes.bfloat16), "c": np.array(3)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    found = read(tmp_path / "a.safetensors")
    assert found.keys() == arrays.keys() and all(found[n].dtype == a.dtype for n, a in arrays.items())
    assert all((found[n] == a).all() for n, a in arrays.items())


def test_what_pytorch_writes_is_read_to_the_bit(tmp_path):
    torch = pytest.importorskip("torch", reason="writing a file as PyTorch does needs PyTorch")
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2).bfloat16())
    torch.save(module.state_dict(), tmp_path / "a.pth")
    torch.save({"epoch": 1, "state_dict": module.state_dict(), "size": torch.Size([2])}, tmp_path / "b.ckpt")
    for name in ("a.pth", "b.ckpt"):
        found = read(tmp_path / name)
        assert found.keys() == module.state_dict().keys()
        for key, value in module.state_dict().items():
            np.testing.assert_array_equal(found[key].astype(np.float32), value.float().numpy())
    torch.save(module.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"PyTorch before 1\.6"):
        read(tmp_path / "old.pth")
    torch.save(module, tmp_path / "module.pth")
    with pytest.raises(WeightsError, match=r"asks to call torch\.nn\.modules\.container\.Sequential"):
        read(tmp_path / "module.pth")


def test_endings():
    assert (
        weights.is_weights("a/b.safetensors")
        and weights.is_weights("x.ckpt")
        and not weights.is_weights("runs/pretrain")
    )


@pytest.mark.parametrize("operation", [b"r\xff\xff\xff\xff", b"r\xff\xff\xff\x00", b"q\xff", b"p999999999\n"])
def test_a_pickle_cannot_make_the_reader_reserve_memory(tmp_path, operation):
    """The unpickler makes a list as long as the highest number of an object: up to 64 GB."""
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.PROTO + b"\x02}" + operation + b".")
    with pytest.raises(WeightsError, match=r"a\.pt: damaged: its pickle numbers an object"):
        read(tmp_path / "a.pt")


@pytest.mark.parametrize("size", [2**31, 2**62])
def test_a_pickle_cannot_state_more_bytes_than_it_has(tmp_path, size):
    for operation in (b"\x96", b"\x8e", b"\x8d"):
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            archive.writestr("a/data.pkl", pickle.PROTO + b"\x05" + operation + size.to_bytes(8, "little") + b".")
        tracemalloc.start()
        with pytest.raises(WeightsError, match=r"a\.pt: damaged"):
            read(tmp_path / "a.pt")
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("mark", "at", "value"),
    [
        (b"PK\1\2", 8, b"\0\x08"),
        (b"PK\1\2", 6, b"\xff"),
        (b"PK\1\2", 28, b"\0\0"),
        (b"PK\5\6", 12, b"\xff\xff\xff\x7f"),
        (b"PK\5\6", 16, b"\xff\xff\xff\x7f"),
    ],
)
def test_a_damaged_directory_of_the_zip_is_an_error_that_names_the_file(tmp_path, mark, at, value):
    path = write(tmp_path / "a.pt", {"w": Tensor(np.zeros(12, np.float32))})
    data = bytearray(path.read_bytes())
    start = data.index(mark) + at
    data[start : start + len(value)] = value
    if value == b"\0\x08":
        data[data.index(mark) + 46] = 0xFF  # a name that is not UTF-8
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"a\.pt"):
        read(path)


def test_the_cause_of_an_error_is_another_error(tmp_path):
    path = write(tmp_path / "a.pt", {"w": Tensor(np.zeros(12, np.float32))}, byteorder=b"big")
    with pytest.raises(WeightsError, match="big-endian") as caught:
        read(path)
    assert caught.value.__cause__ is not caught.value
