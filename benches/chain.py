#!/usr/bin/env python3
"""The default pack as a plain Python script: ffmpeg, numpy and onnxruntime, one stage after the other.

    python3 benches/chain.py FILE --out FILE.jsonl [--pack DIR]

This is the other side of compare.py. It claims to be what a competent programmer writes in a day, and to do the work
that `describe` does with the same ONNX files on the same two threads: shots from a thumbnail of every frame, tags and
people twice a second, sound events every 0.48 s, voice activity, Whisper (greedy, with timestamps) where somebody speaks,
a caption for each shot, one JSON object a line. It is neither slowed down nor fattened on purpose: the file is decoded once,
ffmpeg scales, models run in batches as far as those are faster (windows of shots are not: four at once take the same time
and 325 MB more), what goes round in Whisper's decoder is not copied, and onnxruntime keeps its defaults. Nor does it do what
takes a design of its own: stages do not overlap, whole files are held as arrays, Whisper always hears its 30 s, and no frame
is left out because it shows nothing new.

Runs in the private Python environment of models/lite/fetch.py. The last line on stdout is JSON: seconds of each stage,
seconds inside ONNX Runtime of each model, and how many observations of each kind there are.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models" / "lite"))
import fetch  # noqa: E402  (it lies in another folder)

RATE, THREADS, BATCH = 16_000, 2, 8
FRAMES_A_SECOND = 2
CUT, PERSON, TAG, SOUND = 0.4, 0.7, 0.3, 0.35  # least probability of each


class Model:
    """An ONNX file on two threads; counts the time spent in it."""

    seconds: dict[str, float] = collections.defaultdict(float)

    def __init__(self, pack: pathlib.Path, name: str):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.name, self.session = name, onnxruntime.InferenceSession(pack / f"{name}.onnx", options)

    def __call__(self, outputs: list[str], **inputs) -> list:
        return self.timed(self.session.run, outputs, inputs)

    def with_values(self, outputs: list[str], **inputs) -> list:
        """Run on ONNX Runtime's own values, which are not copied."""
        return self.timed(self.session.run_with_ort_values, outputs, inputs)

    def timed(self, run, outputs: list[str], inputs: dict) -> list:
        started = time.perf_counter()
        try:
            return run(outputs, inputs)
        finally:
            self.seconds[self.name] += time.perf_counter() - started


# --- decoding

def frame_rate(path: pathlib.Path) -> float:
    """Return frames a second of the first video stream."""
    done = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=avg_frame_rate", "-of", "csv=p=0",
                           path], check=True, capture_output=True, text=True)
    frames, seconds = map(int, done.stdout.split("/"))
    return frames / seconds


def decode(path: pathlib.Path) -> dict:
    """Return u8 [n,27,48,3] `thumbnails` of every frame, [m,size,size,3] frames for each model, and `sound` f32 at 16 kHz."""
    letterbox = "scale={0}:{0}:force_original_aspect_ratio=decrease:flags=area,pad={0}:{0}:-1:-1"
    views = {"thumbnails": (27, 48), "tags": (224, 224), "face": (192, 192), "pose": (224, 224)}
    filters = (f"[0:v:0]split[all][b];[b]fps={FRAMES_A_SECOND},split=3[c][d][e];[all]scale=48:27:flags=area[thumbnails];"
               "[c]crop=min(iw\\,ih*4/3):min(ih\\,iw*4/3),scale=224:224:flags=area[tags];"
               f"[d]{letterbox.format(192)}[face];[e]{letterbox.format(224)}[pose]")
    pipes = {name: os.pipe() for name in (*views, "sound")}
    command = ["ffmpeg", "-v", "error", "-i", path, "-filter_complex", filters]
    for name in views:
        command += ["-map", f"[{name}]", "-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough", f"pipe:{pipes[name][1]}"]
    command += ["-map", "0:a:0", "-ac", "1", "-ar", str(RATE), "-f", "f32le", f"pipe:{pipes['sound'][1]}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[write for _, write in pipes.values()]) as process:
        for _, write in pipes.values():
            os.close(write)
        with concurrent.futures.ThreadPoolExecutor(len(pipes)) as readers:
            found = dict(zip(pipes, readers.map(lambda pipe: open(pipe[0], "rb").read(), pipes.values())))
    if process.returncode:
        sys.exit(f"ffmpeg failed on {path} with status {process.returncode}")
    media = {name: np.frombuffer(found[name], np.uint8).reshape(-1, *size, 3) for name, size in views.items()}
    return media | {"sound": np.frombuffer(found["sound"], np.float32)}


# --- picture

def find_shots(model: Model, thumbnails, rate: float) -> list[tuple[float, float]]:
    """Return start and end of each shot in seconds."""
    count = len(thumbnails)
    padded = np.concatenate([thumbnails[:1].repeat(25, 0), thumbnails, thumbnails[-1:].repeat(75, 0)])
    scores = [model(["single"], frames=padded[None, start:start + 100])[0][0, 25:75, 0] for start in range(0, count, 50)]
    scores = np.concatenate(scores)[:count]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(scores, 5), 11).max(1)
    cuts = [(frame + 1) / rate for frame in np.flatnonzero((scores > CUT) & (scores == around)) if frame + 1 < count]
    edges = [0.0, *cuts, count / rate]
    return list(zip(edges, edges[1:]))


def find_tags(model: Model, frames):
    """Return probabilities f32 [n,1000] of frames u8 [n,224,224,3]."""
    def images(start: int):
        return (frames[start:start + BATCH].transpose(0, 3, 1, 2).astype(np.float32, order="C") - 127) / 128

    return np.concatenate([model(["probs"], image=images(start))[0] for start in range(0, len(frames), BATCH)])


def find_people(face: Model, pose: Model, media: dict):
    """Return bool [n]: a face and a body are in the frame. Bodies are looked for where a face is."""
    def surest(model: Model, frames):
        logits = model(["boxes", "scores"], image=frames.astype(np.float32) / 127.5 - 1)[1]
        return 1 / (1 + np.exp(-logits.max((1, 2))))

    found = np.zeros(len(media["face"]), bool)
    for start in range(0, len(found), BATCH):
        faces = start + np.flatnonzero(surest(face, media["face"][start:start + BATCH]) > PERSON)
        if len(faces):
            found[faces] = surest(pose, media["pose"][faces]) > PERSON
    return found


# --- sound

def mel_bank(bands: int, fft: int, low: float, high: float, to_mel, to_hz=None):
    """Return weights f32 [fft/2+1,bands]: triangles in mel, or in hertz and of equal area where `to_hz` is given."""
    hertz = np.arange(fft // 2 + 1) * RATE / fft
    edges = np.linspace(to_mel(low), to_mel(high), bands + 2)
    at = to_mel(hertz)
    if to_hz:
        edges, at = to_hz(edges), hertz
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    weights = np.clip(np.minimum((at[:, None] - left) / (centre - left), (right - at[:, None]) / (right - centre)), 0, None)
    return (weights * (2 / (right - left) if to_hz else (hertz > 0)[:, None])).astype(np.float32)


def spectrum(sound, fft: int):
    """Return |FFT| f32 [frames,fft/2+1] of frames of 400 samples every 160."""
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)).astype(np.float32)
    return np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(sound, 400)[::160] * hann, fft)).astype(np.float32)


def find_sounds(model: Model, sound, classes: list[dict]) -> list[tuple[float, float, dict, float]]:
    """Return start, end, class and probability of each sound."""
    bank = mel_bank(64, 512, 125, 7500, lambda hertz: 1127 * np.log(1 + hertz / 700))
    sound = np.pad(sound, (0, max(0, 15600 - len(sound))))
    log_mel = np.log(spectrum(sound, 512) @ bank + 0.001)
    patches = np.lib.stride_tricks.sliding_window_view(log_mel, 96, 0)[::48].transpose(0, 2, 1)[:, None]
    scores = [model(["scores"], log_mel=np.ascontiguousarray(patches[i:i + BATCH]))[0] for i in range(0, len(patches), BATCH)]
    scores = np.concatenate(scores)
    scores[:, [about["generic"] or about["kind"] in ("speech", "room", "silence") for about in classes]] = 0
    index = {about["label"]: i for i, about in enumerate(classes)}
    found = []
    for i in np.flatnonzero(scores.max(0) > SOUND):
        for parent in classes[i]["parents"]:
            scores[scores[:, i] > SOUND, index[parent]] = 0
    for i in np.flatnonzero(scores.max(0) > SOUND):
        on = np.flatnonzero(scores[:, i] > SOUND)
        for run in np.split(on, np.flatnonzero(np.diff(on) > 2) + 1):
            found.append((run[0] * 0.48, run[-1] * 0.48 + 0.96, classes[i], float(scores[run, i].max())))
    return found


def find_voice(model: Model, sound) -> list[tuple[int, int]]:
    """Return start and end in samples of each stretch in which somebody speaks, joined over pauses below 2 s."""
    count = -(-len(sound) // 512)
    padded = np.zeros(64 + 512 * count, np.float32)
    padded[64:64 + len(sound)] = sound
    chunks, zero = np.lib.stride_tricks.sliding_window_view(padded, 576)[::512], np.zeros((1, 1, 128), np.float32)
    speech, start, quiet = [], None, 0
    for i, p in enumerate([*model(["speech_probs"], input=np.ascontiguousarray(chunks), h=zero, c=zero)[0], *[0.0] * 10]):
        if start is None:
            start, quiet = (i if p >= 0.5 else None), 0
        elif p >= 0.5:
            quiet = 0
        elif p < 0.35 or quiet:
            quiet += 1
            if quiet == 10:
                speech.append((start, i - 9))
                start = None
    joined: list[tuple[int, int]] = []
    for start, end in ((start * 512, end * 512) for start, end in speech if end - start >= 8):
        if joined and start - joined[-1][1] < 2 * RATE and end - joined[-1][0] < 27 * RATE:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


# --- speech

START, LANGUAGES, TRANSCRIBE, END, ZERO = 50258, slice(50259, 50358), 50359, 50257, 50364
# `suppress_tokens` of the model's config.json: symbols and special tokens
NEVER = [1, 2, 7, 8, 9, 10, 14, 25, 26, 27, 28, 29, 31, 58, 59, 60, 61, 62, 63, 90, 91, 92, 93, 359, 503, 522, 542, 873, 893, 902, 918,
         922, 931, 1350, 1853, 1982, 2460, 2627, 3246, 3253, 3268, 3536, 3846, 3961, 4183, 4667, 6585, 6647, 7273, 9061, 9383, 10428,
         10929, 11938, 12033, 12331, 12562, 13793, 14157, 14635, 15265, 15618, 16553, 16604, 18362, 18956, 20075, 21675, 22520, 26130,
         26161, 26435, 28279, 29464, 31650, 32302, 32470, 36865, 42863, 47425, 49870, 50254, *range(END + 1, ZERO)]


def slaney(hertz):
    return np.where(np.asarray(hertz) < 1000, np.asarray(hertz) * 3 / 200, 15 + np.log(np.maximum(hertz, 1) / 1000) * 27 / np.log(6.4))


def slaney_hertz(mel):
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def whisper_mel(sound, bank):
    """Return f32 [1,80,3000] of at most 30 s."""
    padded = np.pad(np.pad(sound, (0, 30 * RATE - len(sound))), 200, mode="reflect")
    power = spectrum(padded, 400)[:3000] ** 2 @ bank
    logs = np.log10(np.maximum(power, 1e-10))
    return ((np.maximum(logs, logs.max() - 8) + 4) / 4).T[None].astype(np.float32)


def transcribe(encoder: Model, decoder: Model, sound, bank) -> list[int]:
    """Return the tokens of at most 30 s of sound, greedy, by the timestamp rules of whisper/decoding.py."""
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    cross_k, cross_v = encoder.with_values(["cross_k", "cross_v"], mel=value(np.ascontiguousarray(whisper_mel(sound, bank))))
    past_k = past_v = value(np.zeros((6, 1, 8, 0, 64), np.float32))

    def step(tokens: list[int]):
        nonlocal past_k, past_v
        logits, past_k, past_v = decoder.with_values(["logits", "k", "v"], tokens=value(np.array([tokens], np.int64)), past_k=past_k,
                                                     past_v=past_v, cross_k=cross_k, cross_v=cross_v)
        return logits.numpy()[0]

    language = LANGUAGES.start + int(step([START])[LANGUAGES].argmax())
    logits, said = step([language, TRANSCRIBE]), []
    while len(said) < 224:
        token = choose(logits, said)
        if token == END:
            break
        said.append(token)
        logits = step([token])
    return said


def choose(logits, said: list[int]) -> int:
    logits[NEVER] = -np.inf
    if not said:
        logits[[220, END]] = -np.inf
        logits[:ZERO], logits[ZERO + 51:] = -np.inf, -np.inf
    else:
        last, before = said[-1] >= ZERO, len(said) < 2 or said[-2] >= ZERO
        if last and before:
            logits[ZERO:] = -np.inf
        elif last:
            logits[:END] = -np.inf
        latest = max(token for token in said if token >= ZERO)
        logits[ZERO:latest + (0 if last and not before else 1)] = -np.inf
    most, times = logits[:ZERO].max(), logits[ZERO:]
    top = times.max()
    if top > -np.inf and top + np.log(np.exp(times - top).sum()) > most:
        logits[:ZERO] = -np.inf
    return int(logits.argmax())


class Words:
    """Text of tokens, from the vocabulary of a byte-level tokenizer.json."""

    def __init__(self, path: pathlib.Path):
        self.words = {token: word for word, token in json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"].items()}
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in plain]
        self.bytes = {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}

    def __call__(self, tokens: list[int]) -> str:
        text = "".join(self.words.get(token, "") for token in tokens if token < END)
        return bytes(self.bytes[letter] for letter in text).decode("utf-8", "replace").strip()


def find_speech(encoder: Model, decoder: Model, words: Words, sound, stretches: list[tuple[int, int]]) -> list[tuple[float, float, str]]:
    """Return start, end and text of each phrase."""
    bank, found = mel_bank(80, 400, 0, 8000, slaney, slaney_hertz), []
    for start, end in stretches:
        start, end = max(0, start - int(0.4 * RATE)), min(len(sound), end + int(0.4 * RATE), start + 30 * RATE)
        tokens, since = transcribe(encoder, decoder, sound[start:end], bank), None
        for i, token in enumerate([*tokens, ZERO + (end - start) // 320]):
            if token < ZERO:
                continue
            text = words(tokens[since + 1:i]) if since is not None else ""
            if text:
                times = [start / RATE + (tick - ZERO) * 0.02 for tick in (tokens[since], token)]
                found.append((times[0], min(times[1], end / RATE), text))
            since = i
    return found


# --- words

def caption(shot, tags, people, sounds, speech, classes) -> tuple[str, float] | None:
    """Return a sentence made of what was found between start and end of `shot`."""
    start, end = shot
    here = slice(int(start * FRAMES_A_SECOND), max(int(end * FRAMES_A_SECOND), int(start * FRAMES_A_SECOND) + 1))
    mean, parts, sure = tags[here].mean(0), [], []
    if people[here].mean() >= 0.25:
        parts, sure = ["a person"], [float(people[here].mean())]
    if mean.max() > TAG:
        about = classes[mean.argmax()]
        parts, sure = [*parts, f"{about['article']} {about['name']}".strip()], [*sure, float(mean.max())]
    heard = sorted((event for event in sounds if event[0] < end and event[1] > start), key=lambda event: -event[3])[:2]
    parts, sure = [*parts, *(event[2]["clause"] for event in heard)], [*sure, *(event[3] for event in heard)]
    said = " ".join(text for at, _, text in speech if start <= at < end)
    if said:
        parts, sure = [*parts, f"a voice says: “{said}”"], [*sure, 1.0]
    if not parts:
        return None
    text = "; ".join(dict.fromkeys(parts))
    return text[0].upper() + text[1:] + ".", sum(sure) / len(sure)


def observation(kind: str, start: float, end: float, text: str, confidence: float = 1.0) -> dict:
    return {"kind": kind, "start_ns": round(start * 1e9), "end_ns": round(end * 1e9), "text": text, "confidence": round(float(confidence), 4)}


def describe(path: pathlib.Path, pack: pathlib.Path, out: pathlib.Path) -> dict:
    """Write the observations of a file; return what took how long."""
    stages, last = {}, time.perf_counter()

    def done(stage: str) -> None:
        nonlocal last
        stages[stage], last = time.perf_counter() - last, time.perf_counter()

    names = ("shots", "tags", "people_face", "people_pose", "sounds", "voice", "speech_encoder", "speech_decoder")
    models = {name: Model(pack, name) for name in names}
    images, hearing = (json.loads((pack / f"{name}.json").read_text(encoding="utf-8"))["classes"] for name in ("images", "sounds"))
    words = Words(pack / "speech_tokenizer.json")
    done("load")
    rate, media = frame_rate(path), decode(path)
    sound = media["sound"]
    done("decode")
    shots = find_shots(models["shots"], media["thumbnails"], rate)
    done("shots")
    tags = find_tags(models["tags"], media["tags"])
    done("tags")
    people = find_people(models["people_face"], models["people_pose"], media)
    done("people")
    sounds = find_sounds(models["sounds"], sound, hearing)
    done("sounds")
    stretches = find_voice(models["voice"], sound)
    done("voice")
    speech = find_speech(models["speech_encoder"], models["speech_decoder"], words, sound, stretches)
    done("speech")
    captions = [(shot, caption(shot, tags, people, sounds, speech, images)) for shot in shots]
    observations = [observation("caption", *shot, *said) for shot, said in captions if said]
    observations += [observation("scene", *shot, f"shot {i}") for i, shot in enumerate(shots, 1)]
    observations += [observation("sound", start, end, about["clause"], sure) for start, end, about, sure in sounds]
    observations += [observation("speech", start, end, text) for start, end, text in speech]
    observations.sort(key=lambda said: (said["start_ns"], said["kind"]))
    out.write_text("".join(json.dumps(said, ensure_ascii=False) + "\n" for said in observations), encoding="utf-8")
    done("write")
    return {"stages": stages, "onnx": dict(Model.seconds), "found": dict(collections.Counter(said["kind"] for said in observations))}


def main() -> int:
    data = pathlib.Path(os.environ.get("XDG_DATA_HOME") or pathlib.Path.home() / ".local" / "share")
    parser = argparse.ArgumentParser(description="Describe a file with the default pack, in plain Python.")
    parser.add_argument("file", type=pathlib.Path, help="the video")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON lines")
    parser.add_argument("--pack", type=pathlib.Path, default=data / "describe" / "packs" / "lite", help="folder of the pack")
    arguments = parser.parse_args()
    fetch.enter_environment(fetch.default_cache())
    global np, onnxruntime
    import numpy as np
    import onnxruntime
    print(json.dumps(describe(arguments.file, arguments.pack, arguments.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
