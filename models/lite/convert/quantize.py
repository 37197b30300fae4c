"""Static int8 in the QDQ form: uint8 activations from given ranges, int8 weights per output channel, int32 biases."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .graph import finish

OUTPUT_AXIS = {"Conv": 0, "MatMul": 1}  # of the weight
MOVERS = {"Transpose", "Reshape", "Slice"}  # give out what they take in, so they keep its scale


def quantize(model: onnx.ModelProto, ranges: dict[str, list[float]]) -> onnx.ModelProto:
    """Return the model with a quantise-dequantise pair after every tensor of `ranges` ({name: [low, high]}).

    A convolution or matrix product whose input has such a pair gets an int8 weight too; all else stays f32.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    scales: dict[str, tuple[str, str, np.float32]] = {}  # tensor -> names of scale and zero point, value of scale
    rounded: dict[str, str] = {}  # tensor -> its dequantised twin

    def dequantize(name: str, *inputs: str, **attributes) -> str:
        nodes.append(helper.make_node("DequantizeLinear", list(inputs), [f"{name}/dq"], f"{name}/dq", **attributes))
        return f"{name}/dq"

    def round_activation(name: str) -> None:
        scale, zero, _ = scales[name]
        nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}/q"], f"{name}/q"))
        rounded[name] = dequantize(name, f"{name}/q", scale, zero)

    def round_weights(node: onnx.NodeProto, input_scale: np.float32) -> None:
        axis, weight = OUTPUT_AXIS[node.op_type], constants[node.input[1]]
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scale = np.maximum(np.abs(weight).max(others), 1e-8).astype(np.float32) / np.float32(127)
        shaped = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        node.input[1] = store(node.input[1], np.clip(np.rint(weight / shaped), -127, 127).astype(np.int8), scale, axis)
        if len(node.input) > 2:
            bias_scale = scale * input_scale
            bias = np.clip(np.rint(constants[node.input[2]] / bias_scale), -(2**31) + 1, 2**31 - 1).astype(np.int32)
            node.input[2] = store(node.input[2], bias, bias_scale, 0)

    def store(name: str, values: np.ndarray, scale: np.ndarray, axis: int) -> str:
        constants.update({f"{name}/q": values, f"{name}/scale": scale, f"{name}/zero": np.zeros(len(scale), values.dtype)})
        return dequantize(name, f"{name}/q", f"{name}/scale", f"{name}/zero", axis=axis)

    missing = set(ranges)
    for node in model.graph.node:
        node = onnx.NodeProto.FromString(node.SerializeToString())
        source, output = node.input[0], node.output[0]
        if node.op_type == "DequantizeLinear":
            scales[output] = (node.input[1], node.input[2], constants[node.input[1]])
            rounded[output] = output
        elif node.op_type in OUTPUT_AXIS and node.input[1] in constants and source in rounded:
            round_weights(node, scales[source][2])
        node.input[:] = [rounded.get(name, name) for name in node.input]
        nodes.append(node)
        if output in ranges:
            missing.discard(output)
            low, high = min(0.0, ranges[output][0]), max(0.0, ranges[output][1])
            scale = np.float32(max(high - low, 1e-6) / 255)
            constants[f"{output}/scale"], constants[f"{output}/zero"] = scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))
            scales[output] = (f"{output}/scale", f"{output}/zero", scale)
            round_activation(output)
        elif node.op_type in MOVERS and source in scales:
            scales[output] = scales[source]
            round_activation(output)
    if missing:
        raise ValueError(f"the graph has no tensor {sorted(missing)[0]} that the activation ranges name; calibrate again")

    used = {name for node in nodes for name in node.input}
    kept = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used]
    return finish(helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, kept))
