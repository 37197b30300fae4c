"""Shot boundaries: TransNetV2, built as ONNX from the PyTorch state dict, in int8.

`frames` u8 [n,100,27,48,3] RGB -> `single`, `many` f32 [n,100,1] (sigmoid; a cut's first frame, any frame of a transition).

Its separable 3-D convolutions become two 2-D ones, for which runtimes have fast kernels. Activations are kept channels
last: the same bytes then read as pictures [n*100,h,w,c] for the spatial half and as [n,100,h*w,c] for the temporal half,
and an int8 runtime, whose convolutions are channels last anyway, drops every Transpose written here.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx

from . import torch_state
from .graph import Graph, fold_batch_norm, save
from .quantize import quantize

FRAMES, HEIGHT, WIDTH = 100, 27, 48
LOOKUP = 101  # frames that similarity and colour features compare each frame with, itself in the middle
DILATIONS = (1, 2, 4, 8)
STACKS, BLOCKS, FILTERS = 3, 2, 16
HISTOGRAM_BINS = 512  # three bits per colour
RANGES = pathlib.Path(__file__).with_name("shots_ranges.json")


class _Builder:
    def __init__(self, state: dict[str, np.ndarray]):
        self.state, self.graph = state, Graph("transnetv2")

    def run(self) -> onnx.ModelProto:
        graph, state = self.graph, self.state
        pixels = graph.node("DequantizeLinear", "frames", graph.const(np.float32(1 / 255)), graph.const(np.uint8(0)), name="pixels")
        x = graph.node("Reshape", pixels, graph.ints(-1, HEIGHT, WIDTH, 3))
        height, width, means = HEIGHT, WIDTH, []
        for stack in range(STACKS):
            x = self.stack(x, f"SDDCNN.{stack}", height, width)
            height, width = height // 2, width // 2
            means.append(graph.node("ReduceMean", x, axes=[1, 2], keepdims=0))

        # fc1 sums over [colour | similarity | picture] features; apart, only the large picture part needs int8
        parts = np.split(state["fc1.weight"].T, np.cumsum([128, 128]))
        flat = graph.node("Reshape", x, graph.ints(-1, FRAMES, parts[2].shape[0]))
        total = graph.node("MatMul", flat, graph.const(parts[2], "fc1.picture"))
        for part, feature in zip(parts, (self.colour(), self.similarity(means))):
            total = graph.node("Add", total, graph.node("MatMul", feature, graph.const(part)))
        hidden = graph.node("Relu", graph.node("Add", total, graph.const(state["fc1.bias"])))
        for output, layer in (("single", "cls_layer1"), ("many", "cls_layer2")):
            graph.node("Sigmoid", self.linear(hidden, layer), name=output)
        scores = (np.float32, ["n", FRAMES, 1])
        return graph.model({"frames": (np.uint8, ["n", FRAMES, HEIGHT, WIDTH, 3])}, {"single": scores, "many": scores})

    def linear(self, x: str, layer: str) -> str:
        product = self.graph.node("MatMul", x, self.graph.const(self.state[f"{layer}.weight"].T))
        return self.graph.node("Add", product, self.graph.const(self.state[f"{layer}.bias"]))

    def stack(self, x: str, name: str, height: int, width: int) -> str:
        first = self.block(x, f"{name}.DDCNN.0", height, width)
        second = self.block(first, f"{name}.DDCNN.1", height, width)
        joined = self.graph.node("Add", second, first, name=f"{name}.sum")
        return self.channels_last("AveragePool", joined, name=f"{name}.pool", kernel_shape=[2, 2], strides=[2, 2])

    def block(self, x: str, name: str, height: int, width: int) -> str:
        """Four dilated branches side by side, normalised, with ReLU; [n*100,h,w,c] in and out."""
        graph, branches = self.graph, [f"{name}.Conv3D_{dilation}.layers" for dilation in DILATIONS]
        spatial = np.concatenate([self.state[f"{branch}.0.weight"][:, :, 0] for branch in branches])
        temporal = np.concatenate([self.state[f"{branch}.1.weight"][..., 0] for branch in branches])
        temporal, bias = fold_batch_norm(temporal, self.state, f"{name}.bn")
        filters = len(bias) // len(DILATIONS)

        pictures = self.channels_last("Conv", x, graph.const(spatial, f"{name}.spatial"), name=f"{name}.pictures", pads=[1, 1, 1, 1])
        lines = graph.node("Reshape", pictures, graph.ints(-1, FRAMES, height * width, spatial.shape[0]))
        outputs = []
        for i, dilation in enumerate(DILATIONS):
            channels = slice(i * filters, (i + 1) * filters)
            part = graph.node("Slice", lines, graph.ints(2 * filters * i), graph.ints(2 * filters * (i + 1)), graph.ints(3))
            outputs.append(self.channels_last("Conv", part, graph.const(temporal[channels]), graph.const(bias[channels]), relu=True,
                                              name=f"{name}.branch_{dilation}", dilations=[dilation, 1], pads=[dilation, 0, dilation, 0]))
        joined = graph.node("Concat", *outputs, name=name, axis=3)
        return graph.node("Reshape", joined, graph.ints(-1, height, width, 4 * filters))

    def channels_last(self, op: str, x: str, *weights: str, name: str, relu: bool = False, **attributes) -> str:
        y = self.graph.node("Transpose", x, perm=[0, 3, 1, 2])
        y = self.graph.node(op, y, *weights, name=f"{name}.linear" if relu else name, **attributes)
        y = self.graph.node("Relu", y, name=name) if relu else y
        return self.graph.node("Transpose", y, perm=[0, 2, 3, 1])

    def compare(self, features: str, layer: str) -> str:
        """Cosine similarity of each frame with the 50 before and after it (zero outside the window), through one layer."""
        graph = self.graph
        unit = graph.node("LpNormalization", features, axis=2, p=2)
        cosine = graph.node("MatMul", unit, graph.node("Transpose", unit, perm=[0, 2, 1]))
        margin = LOOKUP // 2
        padded = graph.node("Pad", cosine, graph.ints(0, 0, margin, 0, 0, margin))
        row = FRAMES + 2 * margin
        diagonal = np.arange(FRAMES)[:, None] * (row + 1) + np.arange(LOOKUP)
        flat = graph.node("Reshape", padded, graph.ints(-1, FRAMES * row))
        window = graph.node("Gather", flat, graph.const(diagonal), axis=1)
        return graph.node("Relu", self.linear(window, layer))

    def similarity(self, means: list[str]) -> str:
        joined = self.graph.node("Concat", *means, axis=1)
        features = self.graph.node("Reshape", joined, self.graph.ints(-1, FRAMES, self.state["frame_sim_layer.projection.weight"].shape[1]))
        return self.compare(self.linear(features, "frame_sim_layer.projection"), "frame_sim_layer.fc")

    def colour(self) -> str:
        graph = self.graph
        bits = graph.node("Div", graph.node("Cast", "frames", to=onnx.TensorProto.INT32), graph.const(np.int32(32)))
        weighted = graph.node("Mul", bits, graph.const(np.array([64, 8, 1], np.int32)))
        bins = graph.node("Reshape", graph.node("ReduceSum", weighted, graph.ints(4), keepdims=0), graph.ints(0, 0, -1))
        shape = graph.node("Shape", bins)
        ones = graph.node("ConstantOfShape", shape, value=onnx.numpy_helper.from_array(np.ones(1, np.float32)))
        rows = graph.node("Slice", shape, graph.ints(0), graph.ints(2))
        empty = graph.node("ConstantOfShape", graph.node("Concat", rows, graph.ints(HISTOGRAM_BINS), axis=0))
        histogram = graph.node("ScatterElements", empty, bins, ones, axis=2, reduction="add")
        return self.compare(histogram, "color_hist_layer.fc")


def build(state: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return the fp32 ONNX model of a TransNetV2 state dict."""
    return _Builder(state).run()


def convert(sources: dict[str, pathlib.Path], out: pathlib.Path) -> None:
    """Write shots.onnx (int8) from the state dict `weights` and the committed activation ranges."""
    model = build(torch_state.read(sources["weights"]))
    save(quantize(model, json.loads(RANGES.read_text())), out / "shots.onnx")
