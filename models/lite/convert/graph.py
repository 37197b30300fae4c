"""A small ONNX graph builder: constants, nodes, and a checked model at the end."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 17
IR_VERSION = 8
BN_EPSILON = 1e-3

Shape = list["int | str"]


class Graph:
    """Collects nodes in execution order; every method returns tensor names."""

    def __init__(self, name: str):
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def const(self, value: np.ndarray, name: str = "") -> str:
        """Keep an array as a constant and return its name."""
        name = name or f"const_{len(self.constants)}"
        if name in self.constants:
            raise ValueError(f"graph {self.name}: two constants are called {name}; rename one")
        self.constants[name] = np.ascontiguousarray(value).reshape(np.shape(value))
        return name

    def ints(self, *values: int) -> str:
        """Keep int64 values (shapes, axes, pads) as a constant."""
        return self.const(np.array(values, np.int64))

    def node(self, op: str, *inputs: str, name: str = "", **attributes) -> str:
        """Append one node with one output called `name` and return that name."""
        name = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def model(self, inputs: dict[str, tuple[type, Shape]], outputs: dict[str, tuple[type, Shape]]) -> onnx.ModelProto:
        """Close the graph over typed inputs and outputs and check it."""
        def info(values):
            return [helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
                    for key, (dtype, shape) in values.items()]

        used = {name for node in self.nodes for name in node.input}
        constants = [numpy_helper.from_array(value, key) for key, value in self.constants.items() if key in used]
        graph = helper.make_graph(self.nodes, self.name, info(inputs), info(outputs), constants)
        return finish(graph)


def finish(graph: onnx.GraphProto) -> onnx.ModelProto:
    """Wrap a graph into a checked model of this pack's opset and IR version."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                              producer_name="describe-lite")
    onnx.checker.check_model(model, full_check=True)
    return model


def save(model: onnx.ModelProto, path: pathlib.Path) -> None:
    """Write a model so that equal models give equal bytes."""
    path.write_bytes(model.SerializeToString(deterministic=True))


def fold_batch_norm(weight: np.ndarray, state: dict[str, np.ndarray], norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Fold an inference batch normalisation into the bias-free convolution before it.

    weight: [out, in, kh, kw] f32; returns weight of the same shape and bias [out].
    """
    gain = state[f"{norm}.weight"].astype(np.float64) / np.sqrt(state[f"{norm}.running_var"].astype(np.float64) + BN_EPSILON)
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
    folded = weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
    return folded.astype(np.float32), bias.astype(np.float32)
