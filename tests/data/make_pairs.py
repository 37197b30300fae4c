"""Makes tiny pairs of encoders in the published layout, with what must come of them: python3 make_pairs.py (numpy, onnx).

Weights are random but seeded. Everything in golden.json is computed here with numpy, from the media up: nothing of the
program is used, and no ONNX Runtime.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

HERE = Path(__file__).parent / "pairs"
WIDTH, HIDDEN = 12, 10
LABELS = ["cat", "dog", "red car", "rain"]
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "photo", "of", "this", "is", "sound", "cat", "dog", "red", "car", "rain", "."]
SAMPLES = 2 * 48_000


def initializer(name, values):
    return numpy_helper.from_array(values, name)


def session(path, nodes, inputs, outputs, weights):
    """Writes one graph; shapes may hold names for free dimensions."""
    kinds = {"i": TensorProto.INT64, "f": TensorProto.FLOAT, "b": TensorProto.BOOL}
    value = lambda port: helper.make_tensor_value_info(port[0], kinds[port[1]], port[2])
    graph = helper.make_graph(
        nodes, "pair", [value(p) for p in inputs], [value(p) for p in outputs],
        [initializer(name, values) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(model, path)


class Text:
    """Embeddings of tokens, their mean (weighted by the mask where there is one), one matrix."""

    def __init__(self, random):
        self.table = random.normal(0, 1, (len(WORDS), HIDDEN)).astype(np.float32)
        self.matrix = random.normal(0, 1, (HIDDEN, WIDTH)).astype(np.float32)

    def nodes(self, masked, out):
        node = helper.make_node
        found = [node("Gather", ["table", "input_ids"], ["tokens"])]
        if masked:
            found += [
                node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
                node("Unsqueeze", ["mask", "last"], ["column"]),
                node("Mul", ["tokens", "column"], ["real"]),
                node("ReduceSum", ["real", "rows"], ["sum"], keepdims=0),
                node("ReduceSum", ["column", "rows"], ["count"], keepdims=0),
                node("Div", ["sum", "count"], ["mean"]),
            ]
        else:
            found.append(node("ReduceMean", ["tokens"], ["mean"], axes=[1], keepdims=0))
        return found + [node("MatMul", ["mean", "matrix"], [out])]

    def weights(self):
        return {"table": self.table, "matrix": self.matrix, "last": np.array([-1]), "rows": np.array([1])}

    def embed(self, ids):
        return self.table[ids].mean(0) @ self.matrix


class Vision:
    """A convolution over patches, what is positive of it, its mean, one matrix."""

    def __init__(self, random, patch):
        self.kernel = random.normal(0, 0.2, (HIDDEN, 3, patch, patch)).astype(np.float32)
        self.vmatrix = random.normal(0, 1, (HIDDEN, WIDTH)).astype(np.float32)
        self.patch = patch

    def nodes(self, out):
        node = helper.make_node
        return [
            node("Conv", ["pixel_values", "kernel"], ["patches"], strides=[self.patch] * 2),
            node("Relu", ["patches"], ["positive"]),
            node("ReduceMean", ["positive"], ["pooled"], axes=[2, 3], keepdims=0),
            node("MatMul", ["pooled", "vmatrix"], [out]),
        ]

    def weights(self):
        return {"kernel": self.kernel, "vmatrix": self.vmatrix}

    def embed(self, pixels):
        side, patch = pixels.shape[1], self.patch
        cut = pixels.reshape(3, side // patch, patch, side // patch, patch)
        patches = np.einsum("cyaxb,hcab->hyx", cut, self.kernel)
        return np.maximum(patches, 0).mean((1, 2)) @ self.vmatrix


class Audio:
    """The mean over time, one matrix."""

    def __init__(self, random, bands):
        self.amatrix = (random.normal(0, 1, (bands, WIDTH)) / 50).astype(np.float32)

    def nodes(self):
        node = helper.make_node
        return [
            node("ReduceMean", ["input_features"], ["bands"], axes=[1, 2], keepdims=0),
            node("MatMul", ["bands", "amatrix"], ["audio_embeds"]),
        ]

    def embed(self, features):
        return features.mean(0) @ self.amatrix


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_folder(name, config, processor, pad):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    added = [
        {"id": i, "content": w, "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for i, w in enumerate(WORDS[:4])
    ]
    around = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    write_json(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing", "single": around, "pair": around, "special_tokens": {
            "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
        "decoder": None, "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(WORDS)}, "unk_token": "<unk>"},
    })
    write_json(folder / "tokenizer_config.json", {"pad_token": pad})
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", processor)
    return folder


def ids(template, label, fill=None):
    text = template.replace("{}", label).lower().replace(".", " .").split()
    found = [0] + [WORDS.index(word) if word in WORDS else 3 for word in text] + [2]
    return found + [1] * ((fill or 0) - len(found))


def unit(row):
    return row / np.linalg.norm(row)


def picture(side):
    """Three pictures of a formula, [3][side, side, rgb]."""
    y, x, c = np.meshgrid(np.arange(side), np.arange(side), np.arange(3), indexing="ij")
    return [((x * (7 + 4 * k) + y * (13 - 5 * k) + c * (29 + 40 * k) + x * y * (k + 1)) % 256).astype(np.uint8) for k in range(3)]


def normalised(picture, mean, std):
    return ((picture / 255.0 - mean) / std).transpose(2, 0, 1).astype(np.float32)


def softmax(logits):
    parts = np.exp(logits - logits.max())
    return parts / parts.sum()


def golden(folder, rows, embeddings, scores):
    as_list = lambda values: [[round(float(x), 8) for x in row] for row in values]
    write_json(folder / "golden.json", {
        "labels": LABELS, "label_embeddings": as_list(rows), "embeddings": as_list(embeddings), "scores": as_list(scores)})


def clip(random, one_graph):
    side = 32
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    folder = write_folder("tiny-clip-one" if one_graph else "tiny-clip", {
        "model_type": "clip", "logit_scale_init_value": 2.6592, "text_config": {"max_position_embeddings": 16}}, {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side},
        "do_center_crop": True, "resample": 3, "image_mean": mean, "image_std": std}, "</s>")
    text, vision = Text(random), Vision(random, 8)
    tokens = [("input_ids", "i", ["b", "s"]), ("attention_mask", "i", ["b", "s"])]
    pixels = [("pixel_values", "f", ["n", 3, side, side])]
    scale = np.float32(23.5 if one_graph else 100)
    if one_graph:
        node = helper.make_node
        unit_nodes = [node("LpNormalization", [f"{k}_embeds"], [f"{k}_unit"], axis=-1, p=2) for k in ("text", "image")]
        logits = [
            node("Transpose", ["text_unit"], ["turned"], perm=[1, 0]), node("MatMul", ["image_unit", "turned"], ["cosines"]),
            node("Mul", ["cosines", "scale"], ["logits_per_image"]),
        ]
        session(folder / "onnx/model.onnx", text.nodes(True, "text_embeds") + vision.nodes("image_embeds") + unit_nodes + logits,
                tokens + pixels, [("logits_per_image", "f", ["n", "b"]), ("text_embeds", "f", ["b", WIDTH]), ("image_embeds", "f", ["n", WIDTH])],
                {**text.weights(), **vision.weights(), "scale": np.array(scale)})
    else:
        session(folder / "onnx/text_model.onnx", text.nodes(True, "text_embeds"), tokens, [("text_embeds", "f", ["b", WIDTH])], text.weights())
        session(folder / "onnx/vision_model.onnx", vision.nodes("image_embeds"), pixels, [("image_embeds", "f", ["n", WIDTH])], vision.weights())
    rows = [unit(text.embed(ids("a photo of {}", label))) for label in LABELS]
    seen = [unit(vision.embed(normalised(image, mean, std))) for image in picture(side)]
    golden(folder, rows, seen, [softmax(scale * np.array(rows) @ image) for image in seen])


def siglip(random):
    side, length = 24, 12
    folder = write_folder("tiny-siglip", {
        "model_type": "siglip", "logit_scale": float(np.log(8.0)), "logit_bias": 5.0,
        "text_config": {"max_position_embeddings": length}}, {
        "image_processor_type": "SiglipImageProcessor", "size": {"height": side, "width": side}, "resample": 3,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "<pad>")
    text, vision = Text(random), Vision(random, 6)
    session(folder / "onnx/text_model.onnx", text.nodes(False, "pooler_output"), [("input_ids", "i", ["b", "s"])],
            [("pooler_output", "f", ["b", WIDTH])], {k: v for k, v in text.weights().items() if k in ("table", "matrix")})
    session(folder / "onnx/vision_model.onnx", vision.nodes("pooler_output"), [("pixel_values", "f", ["n", 3, side, side])],
            [("pooler_output", "f", ["n", WIDTH])], vision.weights())
    rows = [unit(text.embed(ids("This is a photo of {}.", label, length))) for label in LABELS]
    seen = [unit(vision.embed(normalised(image, [0.5] * 3, [0.5] * 3))) for image in picture(side)]
    golden(folder, rows, seen, [1 / (1 + np.exp(-(8.0 * np.array(rows) @ image + 5.0))) for image in seen])


def slaney(hz):
    return hz * 3 / 200 if hz < 1000 else 15 + np.log(hz / 1000) * 27 / np.log(6.4)


def hertz(mel):
    return mel * 200 / 3 if mel < 15 else 1000 * np.exp((mel - 15) * np.log(6.4) / 27)


def log_mel(samples, length, fft=1024, hop=480, bands=64, low=50.0, high=14000.0, rate=48_000):
    """Decibels of the bands of librosa, frames centred, short sounds repeated."""
    filled = np.zeros(length)
    whole = np.tile(samples, length // len(samples))
    filled[: len(whole)] = whole
    padded = np.pad(filled, fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fft) / fft)
    frames = [np.abs(np.fft.rfft(padded[at : at + fft] * window)) ** 2 for at in range(0, length + 1, hop)]
    edges = np.array([hertz(mel) for mel in np.linspace(slaney(low), slaney(high), bands + 2)])
    bins = np.arange(fft // 2 + 1) * rate / fft
    bank = []
    for left, centre, right in zip(edges, edges[1:], edges[2:]):
        triangle = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
        bank.append(np.maximum(triangle, 0) * 2 / (right - left))
    return 10 * np.log10(np.maximum(np.array(frames) @ np.array(bank).T, 1e-10))


def sounds():
    """A second of a tone, of two tones, and half a second of a chirp."""
    t = np.arange(48_000) / 48_000
    chirp = np.sin(2 * np.pi * (500 * t + 4000 * t * t))[: 24_000]
    return [0.5 * np.sin(2 * np.pi * 440 * t), 0.3 * np.sin(2 * np.pi * 1000 * t) + 0.3 * np.sin(2 * np.pi * 7000 * t), 0.4 * chirp]


def clap(random):
    folder = write_folder("tiny-clap", {
        "model_type": "clap", "logit_scale_init_value": 14.285714285714285, "text_config": {"max_position_embeddings": 20, "pad_token_id": 1}}, {
        "feature_extractor_type": "ClapFeatureExtractor", "feature_size": 64, "sampling_rate": 48_000, "hop_length": 480,
        "fft_window_size": 1024, "max_length_s": 1, "frequency_min": 50, "frequency_max": 14_000, "truncation": "rand_trunc",
        "padding": "repeatpad"}, "<pad>")
    text, audio = Text(random), Audio(random, 64)
    session(folder / "onnx/text_model.onnx", text.nodes(True, "text_embeds"),
            [("input_ids", "i", ["b", "s"]), ("attention_mask", "i", ["b", "s"])], [("text_embeds", "f", ["b", WIDTH])], text.weights())
    session(folder / "onnx/audio_model.onnx", audio.nodes(), [("input_features", "f", ["n", 1, "t", 64])],
            [("audio_embeds", "f", ["n", WIDTH])], {"amatrix": audio.amatrix})
    rows = [unit(text.embed(ids("This is a sound of {}.", label))) for label in LABELS]
    heard = [unit(audio.embed(log_mel(samples.astype(np.float32), 48_000))) for samples in sounds()]
    golden(folder, rows, heard, [softmax(np.array(rows) @ sound / 0.07) for sound in heard])


if __name__ == "__main__":
    clip(np.random.default_rng(1), False)
    clip(np.random.default_rng(2), True)
    siglip(np.random.default_rng(3))
    clap(np.random.default_rng(4))
