"""Decoders of published sizes with random weights, in the layout of Hugging Face's ONNX folders.

`make(folder)` writes, unless they are there:

* `smollm2`: SmolLM2-135M, 30 layers, fp32, standard operators (past keys by Concat, then MatMul and Softmax);
* `smollm2-q4`: the same with GroupQueryAttention and MatMulNBits of com.microsoft, 4 bits, blocks of 32, 8-bit products;
* `gemma4`: the first 8 layers of Gemma-4-E2B, fp32, standard operators; its vocabulary of 262144 is cut to 65536, as it would
  take 3.5 GB more.

Each has `onnx/decoder_model_merged.onnx` and `onnx/embed_tokens.onnx` with their weights beside them, and a tokenizer.json that
knows the words of an answer, and `genai/model.onnx` with its genai_config.json: of SmolLM2 the same weights and layers, taking
input_ids, which is the form that onnxruntime-genai runs; of Gemma 4 the decoder as it is.
"""

import json
import pathlib
import shutil
import string
import zlib

import numpy as np
import onnx
from onnx import TensorProto, helper

FORMAT = 4
CONTEXT = 2048
# Sizes from the published config.json: HuggingFaceTB/SmolLM2-135M; google/gemma-4-E2B-it (text_config).
SMOLLM2 = {"family": "llama", "layers": 30, "hidden": 576, "heads": 9, "kv_heads": 3, "head_dim": 64, "wide": 1536, "vocabulary": 49152,
           "theta": 1e5, "epsilon": 1e-5}
GEMMA4 = {"family": "gemma4", "layers": 8, "hidden": 1536, "heads": 8, "kv_heads": 1, "head_dim": 256, "full_head_dim": 512,
          "full_every": 5, "window": 512, "wide": 6144, "vocabulary": 65536, "per_layer": 256, "theta": 1e4, "full_theta": 1e6,
          "softcap": 30.0, "epsilon": 1e-6}
MODELS = {"smollm2": SMOLLM2, "smollm2-q4": SMOLLM2 | {"q4": True}, "gemma4": GEMMA4}
F32, I64 = TensorProto.FLOAT, TensorProto.INT64


class Weights:
    """A file of random weights that several graphs share; each name has the same values whoever asks first."""

    def __init__(self, path: pathlib.Path):
        self.path, self.known = path, {}
        self.file = path.open("wb")

    def put(self, name: str, array: np.ndarray) -> TensorProto:
        """Return the tensor `name` that points to `array` in the file."""
        if name not in self.known:
            self.file.seek(-self.file.tell() % 65536, 1)  # memory maps begin at pages
            start = self.file.tell()
            self.file.write(np.ascontiguousarray(array).data)
            self.known[name] = (start, self.file.tell() - start, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        start, length, kind, shape = self.known[name]
        tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.path.name), ("offset", start), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def random(self, name: str, *shape: int) -> TensorProto:
        return self.put(name, np.empty(0, np.float32) if name in self.known else noise(name, *shape))


def noise(name: str, *shape: int) -> np.ndarray:
    """Normal numbers that depend on the name only, scaled by their first size so that activations stay near 1."""
    seed = zlib.crc32(name.encode())
    return np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(shape[0] ** -0.5)


class Graph:
    """Nodes and constants of one ONNX file in the making."""

    def __init__(self, weights: Weights):
        self.weights, self.nodes, self.tensors, self.count = weights, [], {}, 0

    def op(self, kind: str, *inputs: str, domain: str = "", outputs: list[str] | None = None, **attributes) -> str:
        self.count += 1
        outputs = outputs or [f"{kind}_{self.count}"]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, domain=domain, **attributes))
        return outputs[0]

    def constant(self, value, kind=np.int64) -> str:
        array = np.asarray(value, kind)
        name = f"c_{array.dtype}_{array.shape}_{hash(array.tobytes())}"
        self.tensors.setdefault(name, onnx.numpy_helper.from_array(array, name))
        return name

    def number(self, value) -> str:
        return self.constant(value, np.float32)

    def weight(self, name: str, *shape: int) -> str:
        self.tensors[name] = self.weights.random(name, *shape)
        return name

    def linear(self, x: str, name: str, rows: int, columns: int, q4: bool = False) -> str:
        if not q4:
            return self.op("MatMul", x, self.weight(name, rows, columns))
        if f"{name}.q4" not in self.weights.known:
            packed, scales = four_bits(noise(name, rows, columns))
        else:
            packed = scales = np.empty(0, np.uint8)
        for suffix, array in (("q4", packed), ("scales", scales)):
            self.tensors[f"{name}.{suffix}"] = self.weights.put(f"{name}.{suffix}", array)
        return self.op("MatMulNBits", x, f"{name}.q4", f"{name}.scales", domain="com.microsoft", K=rows, N=columns, bits=4, block_size=32,
                       accuracy_level=4)

    def norm(self, x: str, size: int, epsilon: float, weight: bool = True) -> str:
        mean = self.op("ReduceMean", self.op("Pow", x, self.number(2)), self.constant([-1]), keepdims=1)
        scaled = self.op("Div", x, self.op("Sqrt", self.op("Add", mean, self.number(epsilon))))
        return self.op("Mul", scaled, self.number(np.ones(size))) if weight else scaled

    def save(self, path: pathlib.Path, name: str, inputs: list, outputs: list) -> None:
        graph = helper.make_graph(self.nodes, name, inputs, outputs, initializer=list(self.tensors.values()))
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="describe bench"), path)


def four_bits(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the symmetric 4-bit form of [K, N] as MatMulNBits takes it: u8 [N, K/32, 16], scales f32 [N * K/32]."""
    blocks = weight.T.reshape(weight.shape[1], -1, 32)
    scales = np.abs(blocks).max(axis=2, keepdims=True) / 7
    values = (np.rint(blocks / scales) + 8).clip(0, 15).astype(np.uint8)
    return values[..., 0::2] | values[..., 1::2] << 4, scales.astype(np.float32).ravel()


class Decoder:
    """Builds the graph of a decoder; `ids`: it takes input_ids and gives the scores of the last token only."""

    def __init__(self, about: dict, weights: Weights, ids: bool = False):
        self.about, self.graph, self.ids = about, Graph(weights), ids
        self.q4, self.gemma = about.get("q4", False), about["family"] == "gemma4"

    def build(self, path: pathlib.Path) -> None:
        about, graph = self.about, self.graph
        hidden, vocabulary = about["hidden"], about["vocabulary"]
        inputs = [value("attention_mask", I64, "batch_size", "total_length"), value("position_ids", I64, "batch_size", "length")]
        if self.ids:
            inputs.insert(0, value("input_ids", I64, "batch_size", "length"))
            x = graph.op("Gather", graph.weight("embed", vocabulary, hidden), "input_ids")
        else:
            inputs = [value("inputs_embeds", F32, "batch_size", "length", hidden), *inputs, value("num_logits_to_keep", I64)]
            x = "inputs_embeds"
        if self.gemma:
            inputs.append(value("per_layer_inputs", F32, "batch_size", "length", about["layers"], about["per_layer"]))
        # That there is one row only, onnxruntime-genai sees in the declared shape.
        outputs = [value("logits", F32, "batch_size", 1 if self.ids else "kept", vocabulary)]
        self.prepare(x)
        for layer in range(about["layers"]):
            x = self.layer(x, layer)
            for half in ("key", "value"):
                for side, past, length in ((inputs, "past_key_values", "past_length"), (outputs, "present", "total_length")):
                    side.append(value(f"{past}.{layer}.{half}", F32, "batch_size", about["kv_heads"], length, self.head_dim(layer)))
        kept = graph.constant([-1]) if self.ids else graph.op("Reshape", graph.op("Neg", "num_logits_to_keep"), graph.constant([1]))
        x = graph.op("Slice", graph.norm(x, hidden, about["epsilon"]), kept, graph.constant([2**62]), graph.constant([1]))
        if self.gemma:
            x = graph.op("Tanh", graph.op("Mul", graph.linear(x, "head", hidden, vocabulary), graph.number(1 / about["softcap"])))
            graph.op("Mul", x, graph.number(about["softcap"]), outputs=["logits"])
        else:
            graph.op("Identity", graph.linear(x, "head", hidden, vocabulary, self.q4), outputs=["logits"])
        graph.save(path, "decoder", inputs, outputs)

    def is_full(self, layer: int) -> bool:
        return self.gemma and (layer + 1) % self.about["full_every"] == 0

    def head_dim(self, layer: int) -> int:
        return self.about["full_head_dim" if self.is_full(layer) else "head_dim"]

    def prepare(self, x: str) -> None:
        """Make what all layers share: masks and rotations."""
        about, graph = self.about, self.graph
        total = graph.op("Shape", "attention_mask", start=1, end=2)
        if self.q4:
            sums = graph.op("ReduceSum", "attention_mask", graph.constant([1]), keepdims=0)
            self.lengths = graph.op("Cast", graph.op("Sub", sums, graph.constant([1])), to=TensorProto.INT32)
            self.total = graph.op("Cast", graph.op("Squeeze", total), to=TensorProto.INT32)
            angles = np.outer(np.arange(CONTEXT), frequencies(about["head_dim"], about["theta"]))
            self.rotation = graph.number(np.cos(angles)), graph.number(np.sin(angles))
            return
        length = graph.op("Shape", x, start=1, end=2)
        end, zero, one = graph.op("Squeeze", total), graph.constant(0), graph.constant(1)
        columns = graph.op("Unsqueeze", graph.op("Range", zero, end, one), graph.constant([0]))
        first = graph.op("Sub", end, graph.op("Squeeze", length))
        rows = graph.op("Unsqueeze", graph.op("Range", first, end, one), graph.constant([1]))
        real = graph.op("Cast", graph.op("Unsqueeze", "attention_mask", graph.constant([1, 2])), to=TensorProto.BOOL)
        causal = graph.op("And", graph.op("LessOrEqual", columns, rows), real)
        self.bias = {True: self.masked(causal)}
        if self.gemma:
            near = graph.op("Greater", columns, graph.op("Sub", rows, graph.constant(about["window"])))
            self.bias[False] = self.masked(graph.op("And", causal, near))
        positions = graph.op("Unsqueeze", graph.op("Cast", "position_ids", to=F32), graph.constant([1, 3]))
        kinds = {False: frequencies(about["head_dim"], about["theta"])}
        if self.gemma:
            # "proportional": a quarter of the pairs turn, the others stay.
            turning = frequencies(about["full_head_dim"], about["full_theta"])
            kinds[True] = np.where(np.arange(len(turning)) < len(turning) // 4, turning, 0)
        self.rotations = {}
        for full, turns in kinds.items():
            angles = graph.op("Mul", positions, graph.number(np.concatenate([turns, turns])))
            self.rotations[full] = graph.op("Cos", angles), graph.op("Sin", angles)

    def masked(self, allowed: str) -> str:
        return self.graph.op("Where", allowed, self.graph.number(0), self.graph.number(-3e38))

    def layer(self, x: str, layer: int) -> str:
        about, graph, name = self.about, self.graph, f"layer{layer}"
        hidden, wide, epsilon = about["hidden"], about["wide"], about["epsilon"]
        after = (lambda y: graph.norm(y, hidden, epsilon)) if self.gemma else (lambda y: y)
        attend = self.attend_grouped if self.q4 else self.attend
        x = graph.op("Add", x, after(attend(graph.norm(x, hidden, epsilon), layer)))
        y = graph.norm(x, hidden, epsilon)
        gate = graph.linear(y, f"{name}.gate", hidden, wide, self.q4)
        gate = graph.op("Gelu", gate, approximate="tanh") if self.gemma else graph.op("Mul", gate, graph.op("Sigmoid", gate))
        y = graph.op("Mul", gate, graph.linear(y, f"{name}.up", hidden, wide, self.q4))
        x = graph.op("Add", x, after(graph.linear(y, f"{name}.down", wide, hidden, self.q4)))
        if not self.gemma:
            return x
        own = graph.op("Gather", "per_layer_inputs", graph.constant(layer), axis=2)
        y = graph.op("Gelu", graph.linear(x, f"{name}.ple_gate", hidden, about["per_layer"]), approximate="tanh")
        y = graph.linear(graph.op("Mul", y, own), f"{name}.ple", about["per_layer"], hidden)
        return graph.op("Add", x, after(y))

    def attend_grouped(self, x: str, layer: int) -> str:
        about, graph, name = self.about, self.graph, f"layer{layer}"
        size, own, shared = about["head_dim"], about["heads"], about["kv_heads"]
        q, k, v = (graph.linear(x, f"{name}.{part}", about["hidden"], heads * size, True) for part, heads in zip("qkv", (own, shared, shared)))
        past = [f"past_key_values.{layer}.{half}" for half in ("key", "value")]
        outputs = [f"attended.{layer}", f"present.{layer}.key", f"present.{layer}.value"]
        y = graph.op("GroupQueryAttention", q, k, v, *past, self.lengths, self.total, *self.rotation, domain="com.microsoft",
                     outputs=outputs, num_heads=own, kv_num_heads=shared, do_rotary=1)
        return graph.linear(y, f"{name}.o", own * size, about["hidden"], True)

    def attend(self, x: str, layer: int) -> str:
        about, graph, name, full = self.about, self.graph, f"layer{layer}", self.is_full(layer)
        size, own, shared = self.head_dim(layer), about["heads"], about["kv_heads"]
        q = self.rotated(self.heads(x, f"{name}.q", own, size, self.gemma), full, size)
        k = self.rotated(self.heads(x, f"{name}.k", shared, size, self.gemma), full, size)
        v = self.heads(x, f"{name}.v", shared, size, False)
        k = graph.op("Concat", f"past_key_values.{layer}.key", k, axis=2, outputs=[f"present.{layer}.key"])
        v = graph.op("Concat", f"past_key_values.{layer}.value", v, axis=2, outputs=[f"present.{layer}.value"])
        k, v = (self.repeated(y, own, shared, size) for y in (k, v))
        scores = graph.op("MatMul", q, graph.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = scores if self.gemma else graph.op("Mul", scores, graph.number(size ** -0.5))
        scores = graph.op("Softmax", graph.op("Add", scores, self.bias[full or not self.gemma]), axis=-1)
        y = graph.op("Transpose", graph.op("MatMul", scores, v), perm=[0, 2, 1, 3])
        return graph.linear(graph.op("Reshape", y, graph.constant([0, 0, own * size])), f"{name}.o", own * size, about["hidden"])

    def heads(self, x: str, name: str, count: int, size: int, normed: bool) -> str:
        y = self.graph.linear(x, name, self.about["hidden"], count * size)
        y = self.graph.op("Reshape", y, self.graph.constant([0, 0, count, size]))
        y = self.graph.norm(y, size, self.about["epsilon"]) if normed else y
        return self.graph.op("Transpose", y, perm=[0, 2, 1, 3])

    def rotated(self, x: str, full: bool, size: int) -> str:
        graph, (cos, sin) = self.graph, self.rotations[full]
        part = lambda start, end: graph.op("Slice", x, graph.constant([start]), graph.constant([end]), graph.constant([3]))
        turned = graph.op("Concat", graph.op("Neg", part(size // 2, size)), part(0, size // 2), axis=3)
        return graph.op("Add", graph.op("Mul", x, cos), graph.op("Mul", turned, sin))

    def repeated(self, x: str, own: int, shared: int, size: int) -> str:
        """Each shared head as often as own heads use it, as `repeat_kv` of the exports does."""
        if shared == 1:
            return x  # MatMul repeats it without a copy
        graph = self.graph
        y = graph.op("Expand", graph.op("Unsqueeze", x, graph.constant([2])), graph.constant([1, 1, own // shared, 1, 1]))
        return graph.op("Reshape", y, graph.constant([0, own, -1, size]))


def value(name: str, kind: int, *shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def frequencies(size: int, theta: float) -> np.ndarray:
    return theta ** -(np.arange(0, size, 2) / size)


def embedding(about: dict, weights: Weights, path: pathlib.Path) -> None:
    graph, shape = Graph(weights), ("batch_size", "length")
    graph.op("Gather", graph.weight("embed", about["vocabulary"], about["hidden"]), "input_ids", outputs=["inputs_embeds"])
    outputs = [value("inputs_embeds", F32, *shape, about["hidden"])]
    if "per_layer" in about:
        sizes = [about["layers"], about["per_layer"]]
        rows = graph.op("Gather", graph.weight("embed_layers", about["vocabulary"], sizes[0] * sizes[1]), "input_ids")
        graph.op("Reshape", rows, graph.constant([0, 0, *sizes]), outputs=["per_layer_inputs"])
        outputs.append(value("per_layer_inputs", F32, *shape, *sizes))
    graph.save(path, "embed_tokens", [value("input_ids", I64, *shape)], outputs)


def tokenizer(size: int) -> dict:
    """A byte-level tokenizer of `size` tokens: the bytes, words of an answer, and strings of letters."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves (GPT-2)
    others = [byte for byte in range(256) if byte not in plain]
    written = {byte: chr(byte) for byte in plain} | {byte: chr(256 + index) for index, byte in enumerate(others)}
    words = ['{"', '":', '","', '":"', '":[', '[{"', '"},', '{"', "caption", "events", "sounds", "start", "end", "text", "rain", "dog", "a", "the"]
    tokens = dict.fromkeys([written[byte] for byte in range(256)] + words)
    letters, number = string.ascii_lowercase, 0
    while len(tokens) < size - 1:
        tokens.setdefault("".join(letters[number // 26**place % 26] for place in range(4)))
        number += 7
    vocabulary = {token: number for number, token in enumerate([*tokens, "<end>"])}
    return {"version": "1.0", "added_tokens": [{"id": size - 1, "content": "<end>", "single_word": False, "lstrip": False, "rstrip": False,
                                                "normalized": False, "special": True}],
            "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": []}}


def genai_config(about: dict) -> dict:
    """What onnxruntime-genai wants to know; GroupQueryAttention may write the present keys over the past ones."""
    cache = {f"{when}_{half}_names": f"{name}.%d.{half}" for when, name in (("past", "past_key_values"), ("present", "present"))
             for half in ("key", "value")}
    inputs = {"input_ids": "input_ids", "attention_mask": "attention_mask", "position_ids": "position_ids"}
    return {"model": {"type": "llama", "context_length": CONTEXT, "vocab_size": about["vocabulary"], "bos_token_id": 0, "pad_token_id": 0,
                      "eos_token_id": about["vocabulary"] - 1,
                      "decoder": {"session_options": {"intra_op_num_threads": 2, "provider_options": []}, "filename": "model.onnx",
                                  "head_size": about["head_dim"], "hidden_size": about["hidden"], "num_attention_heads": about["heads"],
                                  "num_hidden_layers": about["layers"], "num_key_value_heads": about["kv_heads"],
                                  "inputs": inputs | {name: text for name, text in cache.items() if name.startswith("past")},
                                  "outputs": {"logits": "logits"} | {name: text for name, text in cache.items() if name.startswith("present")}}},
            "search": {"max_length": 1024, "do_sample": False, "past_present_share_buffer": about.get("q4", False)}}


def make(folder: pathlib.Path, names: list[str]) -> None:
    """Write the decoders `names` under `folder`, unless they are there."""
    for name in names:
        ready = folder / name / f"ready-{FORMAT}"
        if ready.exists():
            continue
        shutil.rmtree(folder / name, ignore_errors=True)
        write(MODELS[name], folder / name)
        ready.touch()


def write(about: dict, folder: pathlib.Path) -> None:
    for part in ("onnx", "genai"):
        (folder / part).mkdir(parents=True)
    weights = Weights(folder / "onnx" / "weights.onnx_data")
    Decoder(about, weights).build(folder / "onnx" / "decoder_model_merged.onnx")
    embedding(about, weights, folder / "onnx" / "embed_tokens.onnx")
    texts = {"tokenizer.json": tokenizer(about["vocabulary"]), "config.json": about}
    if about["family"] == "llama":
        Decoder(about, weights, ids=True).build(folder / "genai" / "model.onnx")
    else:
        # What it says to the published form is in the report.
        (folder / "genai" / "model.onnx").hardlink_to(folder / "onnx" / "decoder_model_merged.onnx")
    (folder / "genai" / weights.path.name).hardlink_to(weights.path)
    texts |= {"genai/genai_config.json": genai_config(about), "genai/tokenizer.json": texts["tokenizer.json"],
              "genai/tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<end>"}}
    weights.file.close()
    for name, text in texts.items():
        (folder / name).write_text(json.dumps(text), encoding="utf-8")
