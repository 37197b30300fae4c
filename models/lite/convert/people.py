"""People: MediaPipe's BlazeFace (full range) and BlazePose detectors, from TFLite to ONNX.

`image` f32 NHWC [n,192,192,3] (face) or [n,224,224,3] (pose), RGB, -1..1 -> `boxes` f32 [n,A,k], `scores` f32 [n,A,1] (logits);
A, k = 2304, 16 (face) and 2254, 12 (pose). Anchors lie at cell centres of square grids, row by row, several to a cell
(`grids` in manifest.json: [cells per side, anchors per cell]). A box is centre x, y, width, height, then key points x, y
(face: eyes, nose, mouth, ears), in pixels of the input; centre and key points count from the anchor.
Activations run in NCHW throughout, so only the first and the last layers transpose.
"""

from __future__ import annotations

import pathlib

import numpy as np
import onnx

from . import tflite
from .graph import Graph, save

SAME = 0
RELU, RELU6 = 1, 3
NCHW_AXIS = [0, 2, 3, 1]  # where NHWC axis i lies in NCHW


class _Converter:
    """Walks the operations once, keeping the ONNX name of each TFLite tensor."""

    def __init__(self, network: tflite.Network, name: str):
        self.network, self.graph = network, Graph(name)
        self.names: dict[int, str] = {}
        self.padded: dict[int, tuple[str, np.ndarray]] = {}  # a PAD waits here until its convolution takes it in
        self.graph.const(np.float32(0), "zero")
        self.graph.const(np.float32(6), "six")

    def run(self) -> onnx.ModelProto:
        source = self.network.inputs[0]
        self.names[source] = self.graph.node("Transpose", "image", perm=[0, 3, 1, 2])
        for operator in self.network.operators:
            result = getattr(self, operator.name.lower())(operator)
            if result is not None:
                self.names[operator.outputs[0]] = self.activate(result, operator.options.get("activation", 0))
        outputs = {}
        for name, tensor in zip(("boxes", "scores"), self.network.outputs):
            self.graph.node("Identity", self.names[tensor], name=name)
            outputs[name] = (np.float32, ["n", *self.network.shapes[tensor][1:]])
        return self.graph.model({"image": (np.float32, ["n", *self.network.shapes[source][1:]])}, outputs)

    def activate(self, x: str, code: int) -> str:
        if code == 0:
            return x
        if code == RELU:
            return self.graph.node("Relu", x)
        if code == RELU6:
            return self.graph.node("Clip", x, "zero", "six")
        raise ValueError(f"activation {code} is not one of none, ReLU, ReLU6; use the wheel version named in manifest.json")

    def pad(self, operator: tflite.Operator) -> None:
        amounts = self.network.constants[operator.inputs[1]].reshape(4, 2)[1:3]
        self.padded[operator.outputs[0]] = (self.names[operator.inputs[0]], amounts)

    def conv_2d(self, operator: tflite.Operator) -> str:
        weight = self.network.constants[operator.inputs[1]].transpose(0, 3, 1, 2)
        return self.convolve(operator, weight, 1)

    def depthwise_conv_2d(self, operator: tflite.Operator) -> str:
        weight = self.network.constants[operator.inputs[1]].transpose(3, 0, 1, 2)
        return self.convolve(operator, weight, self.network.shapes[operator.inputs[0]][3])

    def convolve(self, operator: tflite.Operator, weight: np.ndarray, group: int) -> str:
        source, options = operator.inputs[0], operator.options
        x, pads = self.padded.get(source) or (self.names[source], np.zeros((2, 2), int))
        strides, dilations = ([options[f"{kind}_{axis}"] for axis in "hw"] for kind in ("stride", "dilation"))
        if options["padding"] == SAME:
            size, kernel = self.network.shapes[source][1:3], weight.shape[2:]
            total = [max(0, (-(-size[i] // strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - size[i]) for i in (0, 1)]
            pads = pads + np.array([[extra // 2, extra - extra // 2] for extra in total])
        bias = self.network.constants[operator.inputs[2]]
        return self.graph.node("Conv", x, self.graph.const(weight), self.graph.const(bias), group=group, strides=strides,
                               dilations=dilations, pads=[int(pads[i, side]) for side in (0, 1) for i in (0, 1)])

    def add(self, operator: tflite.Operator) -> str:
        return self.graph.node("Add", *(self.names[i] for i in operator.inputs))

    def resize_bilinear(self, operator: tflite.Operator) -> str:
        if operator.options["align_corners"] or not operator.options["half_pixel_centers"]:
            raise ValueError("a resize is not half-pixel centred; use the wheel version named in manifest.json")
        (_, in_h, in_w, _), (_, out_h, out_w, _) = (self.network.shapes[i] for i in (operator.inputs[0], operator.outputs[0]))
        scales = self.graph.const(np.array([1, 1, out_h / in_h, out_w / in_w], np.float32))
        return self.graph.node("Resize", self.names[operator.inputs[0]], "", scales, mode="linear", coordinate_transformation_mode="half_pixel")

    def depth_to_space(self, operator: tflite.Operator) -> str:
        return self.graph.node("DepthToSpace", self.names[operator.inputs[0]], blocksize=operator.options["block_size"], mode="DCR")

    def reshape(self, operator: tflite.Operator) -> str:
        # anchors are listed row by row with their channels last, so the order of NHWC has to come back here
        nhwc = self.graph.node("Transpose", self.names[operator.inputs[0]], perm=[0, 2, 3, 1])
        return self.graph.node("Reshape", nhwc, self.graph.ints(0, *self.network.shapes[operator.outputs[0]][1:]))

    def concatenation(self, operator: tflite.Operator) -> str:
        axis = operator.options["axis"]
        if len(self.network.shapes[operator.outputs[0]]) == 4:
            axis = NCHW_AXIS[axis]
        return self.graph.node("Concat", *(self.names[i] for i in operator.inputs), axis=axis)


def convert(sources: dict[str, pathlib.Path], out: pathlib.Path) -> None:
    """Write people_face.onnx and people_pose.onnx from the TFLite files `face` and `pose`."""
    for name in ("face", "pose"):
        save(_Converter(tflite.read(sources[name]), f"blaze_{name}").run(), out / f"people_{name}.onnx")
