"""Voice activity: Silero VAD v6, the 16 kHz sequence graph of its own wheel, as shipped.

`input` f32 [chunks,576] (64 samples of the chunk before, then 512 new ones, -1..1), `h` and `c` f32 [1,1,128]
-> `speech_probs` f32 [chunks], `hn`, `cn`: one call for any number of consecutive 32 ms chunks, state carried by the caller.
"""

from __future__ import annotations

import pathlib
import shutil


def convert(sources: dict[str, pathlib.Path], out: pathlib.Path) -> None:
    """Copy the graph `model` to voice.onnx."""
    shutil.copyfile(sources["model"], out / "voice.onnx")
