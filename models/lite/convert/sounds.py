"""Sound events: YAMNet out of a quantised export, its activation Q/DQ pairs taken away.

`log_mel` f32 [n,1,96,64] -> `scores` f32 [n,521] (sigmoid), `embedding` f32 [n,1024].
The export keeps float weights (on an 8-bit grid) and rounds only activations, so dropping the pairs loses nothing.
"""

from __future__ import annotations

import pathlib
import zipfile

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .graph import finish, save

MAX_BYTES = 64 << 20
ROUNDING = {"QuantizeLinear", "DequantizeLinear"}


def read(path: pathlib.Path) -> tuple[onnx.ModelProto, bytes]:
    """Return the graph and its external data out of the zip."""
    with zipfile.ZipFile(path) as archive:
        members = {name.rsplit("/", 1)[-1]: archive.getinfo(name) for name in archive.namelist()}
        if max(entry.file_size for entry in members.values()) > MAX_BYTES:
            raise ValueError(f"{path.name}: a member is larger than {MAX_BYTES} bytes; fetch the file again")
        return onnx.load_model_from_string(archive.read(members["model.onnx"])), archive.read(members["model.data"])


def array(tensor: onnx.TensorProto, data: bytes) -> np.ndarray:
    """Return a constant of the graph, out of the external data where it lies there."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    place = {entry.key: entry.value for entry in tensor.external_data}
    start, length = int(place.get("offset", 0)), int(place["length"])
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if start < 0 or start + length > len(data) or length != dtype.itemsize * int(np.prod(tensor.dims)):
        raise ValueError(f"constant {tensor.name} lies outside its data file; fetch the file again")
    return np.frombuffer(data, dtype, length // dtype.itemsize, start).reshape(tensor.dims)


def build(model: onnx.ModelProto, data: bytes) -> onnx.ModelProto:
    """Return the float model with a dynamic batch, named outputs and the sigmoid that the export leaves out."""
    graph = model.graph
    source = {node.output[0]: node.input[0] for node in graph.node if node.op_type in ROUNDING}
    source[graph.input[0].name] = "log_mel"

    def origin(name: str) -> str:
        while name in source:
            name = source[name]
        return name

    nodes = []
    for node in graph.node:
        if node.op_type in ROUNDING:
            continue
        if node.op_type == "Reshape":  # fixes the batch at one; flattening the pooled features does not
            node = helper.make_node("Flatten", [node.input[0]], ["embedding"], "embedding", axis=1)
            source[next(n for n in graph.node if n.op_type == "Reshape").output[0]] = "embedding"
        node.input[:] = [origin(name) for name in node.input]
        nodes.append(node)
    nodes.append(helper.make_node("Sigmoid", [origin(graph.output[0].name)], ["scores"], "scores"))

    used = {name for node in nodes for name in node.input}
    constants = [numpy_helper.from_array(array(tensor, data), tensor.name) for tensor in graph.initializer if tensor.name in used]
    shapes = {"log_mel": ["n", 1, 96, 64], "scores": ["n", 521], "embedding": ["n", 1024]}
    info = {name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    return finish(helper.make_graph(nodes, "yamnet", [info["log_mel"]], [info["scores"], info["embedding"]], constants))


def convert(sources: dict[str, pathlib.Path], out: pathlib.Path) -> None:
    """Write sounds.onnx from the zipped export `model`."""
    save(build(*read(sources["model"])), out / "sounds.onnx")
