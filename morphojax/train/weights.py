"""Weight files -> {name: array}, without PyTorch: safetensors, PyTorch and Lightning. The only file
that unpickles.

A pickle is a program. Here it may rebuild tensors and containers only: the names in it are never
imported, but looked up in a short list. Other objects that Lightning stores beside the weights
(settings, callback states) become empty objects.
"""

import collections
import dataclasses
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from morphojax.data.errors import NamedError
from morphojax.data.store.records import write_atomically

PYTORCH = (".pt", ".pth", ".bin", ".ckpt")
ENDINGS = (".safetensors", *PYTORCH)
_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Packages whose objects become empty: settings, callbacks and scalars, which are no part of the
# weights.
_EMPTY = (
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "omegaconf",
    "torchmetrics",
    "numpy",
    "pathlib",
    "typing",
)
_EMPTY_NAMES = {
    "argparse": "Namespace",
    "collections": "defaultdict",
    "copyreg": "_reconstructor",
    "copy_reg": "_reconstructor",
    "_codecs": "encode",
    "torch": "device Size float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool",
    # torch.save uses the names of Python 2.
    **dict.fromkeys(
        ("builtins", "__builtin__"), "int float bool str bytes list dict tuple set frozenset object complex"
    ),
}


_MAX_COMPRESSION_RATIO = 200  # torch.save does not compress at all
_MAX_REPEATED = 2**20  # values of a tensor beyond those of its storage


class WeightsError(NamedError):
    """A weight file that cannot be read. The message names it and says what to do."""


def is_weights(path: str | Path) -> bool:
    """Whether a path is meant as a weight file, by its ending."""
    return str(path).endswith(ENDINGS)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name, in their own dtypes.

    In a PyTorch file: the tensors of the mapping under `state_dict`, `model_state_dict` or `model`,
    or of the file itself.

    Raises WeightsError: no such file or ending, a damaged file, a pickle that asks for more than
    tensors, or no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if not is_weights(path):
        raise WeightsError(f"{path}: weight files end in {', '.join(ENDINGS)}")
    arrays = _read_pytorch(path) if path.suffix in PYTORCH else _read_safetensors(path)
    if not arrays:
        raise WeightsError(f"{path}: holds no tensors by name (looked for a state dict)")
    return arrays


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file atomically. Raises WeightsError for another ending or an absent
    folder.
    """
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: give a name that ends in .safetensors")
    if not path.parent.is_dir():
        raise WeightsError(f"{path}: {path.parent} does not exist; make the folder first")
    # transformers requires this note on the layout of arrays.
    write_atomically(path, safetensors.numpy.save(dict(arrays), metadata={"format": "pt"}))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # of several kinds for dtypes that NumPy lacks, such as 8-bit floats
        raise WeightsError(
            f"{path}: damaged, no safetensors file, or of a dtype that is not read ({type(error).__name__}: {error}); "
            "download it again, or save it as float32"
        ) from error


def _read_pytorch(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            return _state_dict(_load(path, archive))
    except WeightsError:
        raise
    except Exception as error:  # zipfile raises many types for a damaged directory, sizes and names
        with path.open("rb") as file:
            legacy = file.read(2)[:1] == b"\x80"
        problem = (
            "written by PyTorch before 1.6: load it with PyTorch and save it again with torch.save"
            if legacy
            else "damaged; download it again"
        )
        raise WeightsError(f"{path}: {problem}") from error


def _load(path: Path, archive: zipfile.ZipFile) -> Any:
    pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise WeightsError(f"{path}: a zip archive, but not of torch.save (no data.pkl)")
    folder = pickles[0].removesuffix("data.pkl")
    try:
        if archive.NameToInfo.get(folder + "byteorder") and _bytes(archive, folder + "byteorder") != b"little":
            raise WeightsError(f"{path}: written on a big-endian machine; write it again on another")
        return _Unpickler(archive, folder).load()
    except WeightsError as error:
        if str(path) in str(error):
            raise
        raise WeightsError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise WeightsError(f"{path}: damaged ({type(error).__name__}: {error}); download it again") from error


def _bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the archive. Raises WeightsError where it would unpack to far more bytes."""
    info = archive.getinfo(name)
    if info.file_size > _MAX_COMPRESSION_RATIO * max(info.compress_size, 1024):
        raise WeightsError(
            f"damaged: {name} would unpack to {info.file_size} bytes from {info.compress_size}; download it again"
        )
    return archive.read(name)


def _state_dict(loaded: Any) -> dict[str, np.ndarray]:
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    items = loaded.items() if isinstance(loaded, Mapping) else ()
    return {name: value for name, value in items if isinstance(name, str) and isinstance(value, np.ndarray)}


class _Empty:
    """Replaces an object of a foreign class: accepts everything that a pickle does to it, and keeps
    nothing.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Empty":
        del args, kwargs
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        del args, kwargs

    def __setstate__(self, state: Any) -> None:
        del state

    def __setitem__(self, key: Any, value: Any) -> None:
        del key, value

    def append(self, value: Any) -> None:
        del value

    def extend(self, values: Any) -> None:
        del values

    add = append
    update = extend


def _check_memo(data: bytes) -> None:
    """Raises WeightsError for a pickle that numbers an object beyond its operations.

    The unpickler makes a list as long as the highest number: a few bytes could ask for 64 GB.
    """
    for count, (operation, number, _) in enumerate(pickletools.genops(data), start=1):
        if "PUT" in operation.name and not 0 <= int(number or 0) <= count:
            raise WeightsError(f"damaged: its pickle numbers an object {number} after {count} operations")


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: Any

    def __call__(self, *args: Any) -> Any:
        raise WeightsError("holds a storage outside a tensor")


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str):
        data = _bytes(archive, folder + "data.pkl")
        _check_memo(data)
        super().__init__(io.BytesIO(data))
        self._archive, self._folder = archive, folder
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *args: _tensor(*args[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch" and name in _DTYPES:
            return _StorageType(np.dtype(_DTYPES[name]))
        if module.split(".")[0] in _EMPTY or name in _EMPTY_NAMES.get(module, "").split():
            return _Empty
        raise WeightsError(
            f"asks to call {module}.{name}, which weights never need, so it was not read; "
            "if you trust the file, save its state dict only: torch.save(torch.load(...)['state_dict'], FILE)"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        """("storage", type, key, device, number of values) -> the values."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType)):
            raise WeightsError(f"refers to an object that is no storage: {pid!r}")
        _, kind, key, _, count = pid
        if key not in self._storages:
            try:
                name = f"{self._folder}data/{key}"
                size = self._archive.getinfo(name).file_size
            except KeyError as error:
                raise WeightsError(f"damaged: storage {key} is not in the file") from error
            if size != count * kind.dtype.itemsize:
                raise WeightsError(f"damaged: storage {key} has {size} bytes instead of {count} values of {kind.dtype}")
            data = _bytes(self._archive, name)
            self._storages[key] = np.frombuffer(data, kind.dtype)
        return self._storages[key]


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """A copy of a tensor's values. Offset and stride are in values. Raises WeightsError where they
    exceed the storage.
    """
    numbers = (offset, *size, *stride)
    if (
        not isinstance(storage, np.ndarray)
        or len(size) != len(stride)
        or any(type(n) is not int or n < 0 for n in numbers)
    ):
        raise WeightsError(f"damaged: impossible size {size}, stride {stride} and offset {offset} of a tensor")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if not math.prod(size):
        return np.zeros(size, storage.dtype)
    if math.prod(size) > len(storage) + _MAX_REPEATED:
        raise WeightsError(
            f"a tensor of size {size} repeats its storage of {len(storage)} values; save it again with .contiguous()"
        )
    if last >= len(storage):
        raise WeightsError(f"damaged: a tensor of size {size} reaches beyond its storage of {len(storage)} values")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False).copy()
