"""Weight files: safetensors, and PyTorch's zip with a pickle inside."""

import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import safetensors.numpy

from morphojax.train import weights
from morphojax.train.weights import WeightsError
from tests.reliability.mutations import Mutate, bits, json_text
from tests.reliability.targets import Target, require
from tests.reliability.targets.dicom import mutate_zip
from tests.train.test_weights import Tensor, write

ARRAYS = {"conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "count": np.array(3, np.int64)}
_HUGE = (0, 1, 255, 2**16, 2**24, 2**27, 2**29, 2**31 - 1, 2**32 - 1)
_MOST_BYTES = 1 << 24  # of the arrays of a small file


def opcodes() -> list[bytes]:
    """Every opcode, without an argument, and with extreme sizes and places as arguments."""
    plain = [op.code.encode("latin-1") for op in pickletools.opcodes]
    small = [struct.pack("<I", n) for n in _HUGE]
    long = [struct.pack("<Q", n) for n in (0, 2**31, 2**40, 2**62, 2**64 - 1)]
    sized = [code + n for code in (b"r", b"j", b"T", b"X", b"B", b"\x8b", b"J") for n in small]
    sized += [code + n for code in (b"\x8d", b"\x8e", b"\x95", b"\x96") for n in long]
    calls = [b"cbuiltins\neval\n", b"cos\nsystem\n", b"cnumpy\nzeros\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n",
             b"ctorch._utils\n_rebuild_tensor_v2\n", b")R", b"(tR", b"}b", b"]", b"u", b"s", b"e", b"a"]  # fmt: skip
    return plain + sized + calls


OPCODES = opcodes()
NUMBERS = (0, 1, -1, 7, 10**6, 2**31 - 1, -(2**31))


def mutate_pickle(draw: Random, data: bytes) -> bytes:
    """The pickle with operations inserted, removed or repeated, or with other numbers."""
    if draw.random() < 0.25:
        return bits(draw, data)
    places = [place for _, _, place in pickletools.genops(data)]
    at = places[draw.randrange(len(places))]
    end = next((p for p in places if p > at), len(data))
    kind = draw.randrange(5)
    if kind < 2:
        return data[:at] + b"".join(draw.choice(OPCODES) for _ in range(draw.choice((1, 1, 3)))) + data[at:]
    if kind == 2:
        return data[:at] + data[end:]
    if kind == 3:
        return data[:at] + data[at:end] * draw.choice((2, 3, 1000)) + data[end:]
    numbers = [p for op, _, p in pickletools.genops(data) if op.name == "BININT"]
    at = draw.choice(numbers)
    return data[: at + 1] + struct.pack("<i", draw.choice(NUMBERS)) + data[at + 5 :]


def mutate_torch(draw: Random, data: bytes) -> bytes:
    if draw.random() < 0.25:
        return mutate_zip(draw, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(n for n in files if n.endswith("data.pkl"))
    kind = draw.random()
    if kind < 0.8:
        files[name] = mutate_pickle(draw, files[name])
    elif kind < 0.9:
        other = draw.choice(list(files))
        files[other] = draw.choice((bits(draw, files[other]), b"", b"\0" * 2**24))
    else:
        other = draw.choice(list(files))
        files[draw.choice(("data.pkl", other + "x", "archive/data/1", "archive/byteorder"))] = files.pop(other)
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def mutate_safetensors(draw: Random, data: bytes) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    head, body = data[8 : 8 + length], data[8 + length :]
    kind = draw.randrange(8)
    if kind == 0:
        return bits(draw, data)
    if kind == 1:
        return struct.pack("<Q", draw.choice((0, 1, length - 1, length + 1, 10**8, 2**40, 2**64 - 1))) + data[8:]
    if kind < 5:
        head = json_text(draw, head)
    else:
        state = json.loads(head)
        entry = state[draw.choice([key for key in state if key != "__metadata__"])]
        if draw.random() < 0.5:
            entry["dtype"] = draw.choice(("F8_E4M3", "F8_E5M2", "BF16", "F16", "BOOL", "U64", "C64", "F4", "x", "I8"))
        entry["shape"] = draw.choice(([], [0], [2**40, 0], [2**63, 2], [6, 4], [24], [-1], entry["shape"]))
        entry["data_offsets"] = draw.choice(([0, 2**40], [96, 0], [0, 0], [8, 104], entry["data_offsets"]))
        head = json.dumps(state).encode()
    return struct.pack("<Q", len(head)) + head + (bits(draw, body) if draw.random() < 0.2 else body)


def build_safetensors(folder: Path) -> Sequence[tuple[str, Mutate]]:
    (folder / "w.safetensors").write_bytes(safetensors.numpy.save(ARRAYS, metadata={"format": "pt"}))
    return [("w.safetensors", mutate_safetensors)]


def build_torch(folder: Path) -> Sequence[tuple[str, Mutate]]:
    tensors = {name: Tensor(array) for name, array in ARRAYS.items()}
    write(folder / "w.pth", {"state_dict": tensors, "epoch": 3})
    return [("w.pth", mutate_torch)]


def read(folder: Path, changed: Sequence[Path]) -> None:
    for path in changed:
        arrays = weights.read(path)
        require(arrays and all(isinstance(name, str) for name in arrays), "no names")
        require(all(isinstance(a, np.ndarray) and a.dtype.kind in "fiubVc" for a in arrays.values()), "dtypes")
        require(sum(a.nbytes for a in arrays.values()) <= _MOST_BYTES, "more bytes than the file holds")


TARGETS = (
    Target("safetensors", build_safetensors, read, (WeightsError,)),
    Target("torch", build_torch, read, (WeightsError,)),
)
