"""Read the tensors of a PyTorch state dict without PyTorch and without running what the pickle asks for."""

from __future__ import annotations

import collections
import io
import math
import pathlib
import pickle
import struct
import zipfile

import numpy as np

STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first object of a pre-zip PyTorch file
MAX_BYTES = 256 << 20
MAX_PICKLE = 4 << 20


class _Storage:
    """A named run of elements whose bytes are filled in after the pickle is read."""

    def __init__(self, dtype: np.dtype, key: str, count: int):
        self.dtype, self.key, self.count = dtype, key, count
        self.data = np.empty(0, dtype)


class _Tensor:
    """A view of a storage, resolved once the storage has its bytes."""

    def __init__(self, storage, offset, shape, stride, *_unused):
        if not isinstance(storage, _Storage) or len(shape) != len(stride):
            raise pickle.UnpicklingError("a tensor record is malformed")
        self.storage, self.offset, self.shape, self.stride = storage, offset, tuple(shape), tuple(stride)

    def array(self) -> np.ndarray:
        span = sum((size - 1) * step for size, step in zip(self.shape, self.stride)) if math.prod(self.shape) else -1
        if min((self.offset, *self.shape, *self.stride)) < 0 or self.offset + span >= len(self.storage.data):
            raise ValueError(f"tensor {self.shape} lies outside its storage {self.storage.key}")
        view = np.lib.stride_tricks.as_strided(self.storage.data[self.offset:], self.shape,
                                               [step * self.storage.dtype.itemsize for step in self.stride])
        return view.copy()


class _Unpickler(pickle._Unpickler):
    """Admits exactly the names a state dict needs; a callable outside the list stops the reading.

    The pure Python reader keeps its memo in a dict; that of the C one grows to whatever index a damaged file names.
    """

    def __init__(self, file):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"the weights file asks for {module}.{name}, which no state dict needs; do not use this file")

    def persistent_load(self, record):
        kind, dtype, key, _device, count, *_view = record
        if kind != "storage" or not isinstance(dtype, np.dtype) or not 0 <= count * dtype.itemsize <= MAX_BYTES:
            raise pickle.UnpicklingError(f"storage record {key} is malformed")
        return self.storages.setdefault(key, _Storage(dtype, key, count))


def _fill(storage: _Storage, raw: bytes) -> None:
    if len(raw) != storage.count * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} holds {len(raw)} bytes, {storage.count * storage.dtype.itemsize} expected")
    storage.data = np.frombuffer(raw, storage.dtype)


def _read_zip(path: pathlib.Path) -> dict:
    with zipfile.ZipFile(path) as archive:
        index = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES or archive.getinfo(index).file_size > MAX_PICKLE:
            raise ValueError("the archive is larger than any weights of this pack")
        unpickler = _Unpickler(io.BytesIO(archive.read(index)))
        state = unpickler.load()
        for key, storage in unpickler.storages.items():
            _fill(storage, archive.read(index.removesuffix("data.pkl") + f"data/{key}"))
    return state


def _read_legacy(path: pathlib.Path) -> dict:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError("the file is larger than any weights of this pack")
    with path.open("rb") as file:
        if _Unpickler(file).load() != LEGACY_MAGIC:
            raise ValueError("this is neither a zip nor a legacy PyTorch file")
        for _version_then_sizes in range(2):
            _Unpickler(file).load()
        unpickler = _Unpickler(file)
        state = unpickler.load()
        for key in _Unpickler(file).load():
            storage = unpickler.storages[key]
            if struct.unpack("<q", file.read(8))[0] != storage.count:
                raise ValueError(f"storage {key} has another length than its record")
            _fill(storage, file.read(storage.count * storage.dtype.itemsize))
    return state


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return name -> array for every tensor of a .pth state dict (zip or legacy layout)."""
    try:
        state = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        return {name: value.array() for name, value in state.items() if isinstance(value, _Tensor)}
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path.name}: cannot read the weights: {type(error).__name__}: {error}; fetch the file again") from error
