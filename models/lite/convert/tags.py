"""Picture tags: EfficientNet-Lite0, built as ONNX from the PyTorch state dict.

`image` f32 [n,3,224,224], RGB, (value - 127) / 128 -> `probs` f32 [n,1000], `embedding` f32 [n,1280].
The layer table is that of the EfficientNet-Lite release: MBConv blocks without squeeze-excitation, ReLU6, TensorFlow "SAME" padding.
"""

from __future__ import annotations

import pathlib

import numpy as np

from . import torch_state
from .graph import Graph, fold_batch_norm, save

# repeats, kernel, first stride, expansion, output channels
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]


def _conv(graph: Graph, state: dict, x: str, conv: str, norm: str, kernel: int = 1, stride: int = 1, relu6: bool = True) -> str:
    weight, bias = fold_batch_norm(state[f"{conv}.weight"], state, norm)
    group = weight.shape[0] if weight.shape[1] == 1 else 1
    # every size on the way (224, 112, ... 7) is a multiple of the stride, so SAME padding has one value per layer
    total = kernel - stride
    before, after = total // 2, total - total // 2
    y = graph.node("Conv", x, graph.const(weight), graph.const(bias), kernel_shape=[kernel, kernel], strides=[stride, stride],
                   pads=[before, before, after, after] if total > 0 else [0, 0, 0, 0], group=group)
    return graph.node("Clip", y, "zero", "six") if relu6 else y


def build(state: dict[str, np.ndarray]):
    """Return the ONNX model of a Lite0 state dict."""
    graph = Graph("efficientnet_lite0")
    graph.const(np.float32(0), "zero")
    graph.const(np.float32(6), "six")
    x = _conv(graph, state, "image", "_conv_stem", "_bn0", 3, 2)
    index = 0
    for repeats, kernel, first_stride, expansion, channels in STAGES:
        for repeat in range(repeats):
            stride, block, y = (first_stride if repeat == 0 else 1), f"_blocks.{index}", x
            if expansion > 1:
                y = _conv(graph, state, y, f"{block}._expand_conv", f"{block}._bn0")
            y = _conv(graph, state, y, f"{block}._depthwise_conv", f"{block}._bn1", kernel, stride)
            y = _conv(graph, state, y, f"{block}._project_conv", f"{block}._bn2", relu6=False)
            assert state[f"{block}._project_conv.weight"].shape[0] == channels
            x = graph.node("Add", y, x) if repeat else y
            index += 1
    x = _conv(graph, state, x, "_conv_head", "_bn1")
    embedding = graph.node("Flatten", graph.node("GlobalAveragePool", x), name="embedding", axis=1)
    logits = graph.node("Gemm", embedding, graph.const(state["_fc.weight"]), graph.const(state["_fc.bias"]), transB=1)
    graph.node("Softmax", logits, name="probs", axis=1)
    return graph.model({"image": (np.float32, ["n", 3, 224, 224])},
                       {"probs": (np.float32, ["n", 1000]), "embedding": (np.float32, ["n", 1280])})


def convert(sources: dict[str, pathlib.Path], out: pathlib.Path) -> None:
    """Write tags.onnx from the state dict `weights`."""
    save(build(torch_state.read(sources["weights"])), out / "tags.onnx")
