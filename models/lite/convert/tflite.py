"""Read a TFLite file: a bounds-checked flatbuffer reader and the few schema fields that float detectors use.

Field numbers and codes are those of the public TensorFlow Lite schema (version 3).
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import struct

import numpy as np

MAX_BYTES = 64 << 20
MAX_ITEMS = 1 << 16
MAX_ELEMENTS = 1 << 24  # of one tensor; the largest activation of these networks has 1.2 million
DTYPES = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 2: np.dtype("<i4")}
OPERATORS = {0: "ADD", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 5: "DEPTH_TO_SPACE", 6: "DEQUANTIZE",
             22: "RESHAPE", 23: "RESIZE_BILINEAR", 34: "PAD", 124: "DENSIFY"}
# per operator: option name -> (field, struct format, default)
OPTIONS = {
    "ADD": {"activation": (0, "b", 0)},
    "CONCATENATION": {"axis": (0, "i", 0), "activation": (1, "b", 0)},
    "CONV_2D": {"padding": (0, "b", 0), "stride_w": (1, "i", 0), "stride_h": (2, "i", 0), "activation": (3, "b", 0),
                "dilation_w": (4, "i", 1), "dilation_h": (5, "i", 1)},
    "DEPTHWISE_CONV_2D": {"padding": (0, "b", 0), "stride_w": (1, "i", 0), "stride_h": (2, "i", 0), "activation": (4, "b", 0),
                          "dilation_w": (5, "i", 1), "dilation_h": (6, "i", 1)},
    "DEPTH_TO_SPACE": {"block_size": (0, "i", 0)},
    "RESIZE_BILINEAR": {"align_corners": (2, "?", False), "half_pixel_centers": (3, "?", False)},
}
SEGMENTS = {1: np.dtype("<i4"), 2: np.dtype("<u2"), 3: np.dtype("u1")}  # Int32Vector, Uint16Vector, Uint8Vector


class Table:
    """One flatbuffer table; every access is checked against the end of the buffer."""

    def __init__(self, data: bytes, position: int):
        self.data, self.position = data, position
        self.vtable = position - self._number("i", position)
        self.vtable_bytes = self._number("H", self.vtable)

    def _number(self, format: str, position: int):
        if position < 0:
            raise ValueError("an offset points before the file")
        return struct.unpack_from("<" + format, self.data, position)[0]

    def _field(self, field: int) -> int:
        slot = 4 + 2 * field
        offset = self._number("H", self.vtable + slot) if slot + 2 <= self.vtable_bytes else 0
        return self.position + offset if offset else 0

    def _follow(self, position: int) -> int:
        return position + self._number("I", position)

    def number(self, field: int, format: str, default):
        """Return a scalar field, or its default where it is left out."""
        position = self._field(field)
        return self._number(format, position) if position else default

    def table(self, field: int) -> Table | None:
        """Return the table (or union member) that a field refers to."""
        position = self._field(field)
        return Table(self.data, self._follow(position)) if position else None

    def array(self, field: int, dtype: np.dtype) -> np.ndarray:
        """Return a vector of scalars; empty where it is left out."""
        position = self._field(field)
        if not position:
            return np.empty(0, dtype)
        start = self._follow(position)
        count = self._number("I", start)
        if start + 4 + count * dtype.itemsize > len(self.data):
            raise ValueError("a vector runs past the end of the file")
        return np.frombuffer(self.data, dtype, count, start + 4)

    def tables(self, field: int) -> list[Table]:
        """Return a vector of tables."""
        position = self._field(field)
        offsets = self.array(field, np.dtype("<u4"))
        if len(offsets) > MAX_ITEMS:
            raise ValueError(f"a vector has {len(offsets)} tables")
        first = self._follow(position) + 4 if len(offsets) else 0
        return [Table(self.data, first + 4 * i + int(offset)) for i, offset in enumerate(offsets)]


@dataclasses.dataclass
class Operator:
    """One operation: its name, tensor numbers, and options by name."""

    name: str
    inputs: list[int]
    outputs: list[int]
    options: dict


@dataclasses.dataclass
class Network:
    """The first subgraph: shapes by tensor number (NHWC), constants as f32 or i32 arrays, operations in order."""

    shapes: list[list[int]]
    constants: dict[int, np.ndarray]
    operators: list[Operator]
    inputs: list[int]
    outputs: list[int]


def _densify(sparsity: Table, values: np.ndarray, shape: list[int]) -> np.ndarray:
    """Spread the stored values of a block-sparse constant over a dense array.

    A level of the traversal is dense (every coordinate) or compressed (segments and indices, as in CSR);
    levels past the rank walk inside a block of the dimension named in the block map.
    """
    order, blocks = (sparsity.array(field, np.dtype("<i4")).tolist() for field in (0, 1))
    levels = sparsity.tables(2)
    rank, limit = len(shape), math.prod(shape)
    if sorted(order) != list(range(rank + len(blocks))) or len(levels) != len(order):
        raise ValueError("the traversal of a sparse constant is malformed")
    block_size = [1] * rank
    for level, dimension in zip(levels, order):
        if dimension >= rank:
            block_size[blocks[dimension - rank]] = level.number(1, "i", 0)

    positions = np.zeros(1, np.int64)  # of every element reached so far, in its level's storage
    coordinates = np.zeros((1, rank), np.int64)
    for level, dimension in zip(levels, order):
        if level.number(0, "b", 0) == 0:
            size = level.number(1, "i", 0)
            if not 0 < size * len(positions) <= limit:
                raise ValueError("a dense level of a sparse constant is malformed")
            step = np.tile(np.arange(size), len(positions))
            parents = np.repeat(np.arange(len(positions)), size)
            positions = np.repeat(positions * size, size) + step
        else:
            segments, step = (level.table(table).array(0, SEGMENTS[level.number(kind, "B", 0)]).astype(np.int64)
                              for kind, table in ((2, 3), (4, 5)))
            starts, counts = segments[positions], segments[positions + 1] - segments[positions]
            if (counts < 0).any() or counts.sum() > limit:
                raise ValueError("a compressed level of a sparse constant is malformed")
            parents = np.repeat(np.arange(len(positions)), counts)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            positions = np.repeat(starts, counts) + within
            step = step[positions]
        coordinates = coordinates[parents]
        if dimension < rank:
            coordinates[:, dimension] += step * block_size[dimension]
        else:
            coordinates[:, blocks[dimension - rank]] += step
    dense = np.zeros(shape, values.dtype)
    dense[tuple(coordinates.T)] = values[positions]
    return dense


def _constant(tensor: Table, raw: np.ndarray, shape: list[int]) -> np.ndarray:
    dtype = DTYPES[tensor.number(1, "b", 0)]
    values = raw.view(dtype)
    sparsity = tensor.table(6)
    dense = _densify(sparsity, values, shape) if sparsity else values.reshape(shape)
    return dense.astype(np.float32) if dtype.kind == "f" else dense


def read(path: pathlib.Path) -> Network:
    """Parse a float TFLite network; half-precision and sparse constants come out as dense f32."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"the file is larger than {MAX_BYTES} bytes")
        data = path.read_bytes()
        if data[4:8] != b"TFL3":
            raise ValueError("the file is not TFLite version 3")
        return _network(Table(data, struct.unpack_from("<I", data)[0]))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"{path.name}: cannot read the network: {error}; fetch the file again") from error


def _network(model: Table) -> Network:
    # the byte-wide code is the older field; 127 there says that the wide one holds the number
    codes = [max(code.number(0, "b", 0), code.number(3, "i", 0)) for code in model.tables(1)]
    subgraph, buffers = model.tables(2)[0], model.tables(4)
    tensors = subgraph.tables(0)
    shapes = [tensor.array(0, np.dtype("<i4")).tolist() for tensor in tensors]
    if any(min(shape, default=1) < 1 or math.prod(shape) > MAX_ELEMENTS for shape in shapes):
        raise ValueError("a tensor has no or too many elements")
    constants = {}
    for number, tensor in enumerate(tensors):
        raw = buffers[tensor.number(2, "I", 0)].array(0, np.dtype("u1"))
        if len(raw):
            constants[number] = _constant(tensor, raw, shapes[number])

    operators = []
    for entry in subgraph.tables(3):
        name = OPERATORS[codes[entry.number(0, "I", 0)]]
        inputs, outputs = (entry.array(field, np.dtype("<i4")).tolist() for field in (1, 2))
        if name in ("DEQUANTIZE", "DENSIFY"):  # `_constant` has done it
            constants[outputs[0]] = constants[inputs[0]]
            continue
        table = entry.table(4)
        options = {option: table.number(*place) if table else place[2] for option, place in OPTIONS.get(name, {}).items()}
        operators.append(Operator(name, inputs, outputs, options))
    ends = (subgraph.array(field, np.dtype("<i4")).tolist() for field in (1, 2))
    return Network(shapes, constants, operators, *ends)
