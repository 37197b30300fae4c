#!/usr/bin/env python3
"""Make the clips that the benches measure on: 60 s of the sample video, once small and once in full HD.

    python3 benches/media.py [--out DIR] [--sample FILE]

The sample is looped to 60 s. The large clip is scaled up and gets grain, as the smoothness of a photo blown up would be
decoded faster than film is. A second run does nothing. Exit status: 0 made or there already, 69 something is missing.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 60
# Name of the clip: what is done to the picture.
CLIPS = {"small": "scale=640:360", "large": "scale=1920:1080:flags=bicubic,noise=alls=8:allf=t"}


def make(folder: pathlib.Path, sample: pathlib.Path) -> list[pathlib.Path]:
    """Return the paths of the clips in `folder`, made where they are absent or older than the sample."""
    for path, remedy in ((sample, "make sample"), (shutil.which("ffmpeg"), "make system-test")):
        if not path or not os.path.exists(path):
            sys.exit(missing(path or "ffmpeg", remedy))
    folder.mkdir(parents=True, exist_ok=True)
    return [clip(folder / f"{name}.mp4", sample, picture) for name, picture in CLIPS.items()]


def clip(path: pathlib.Path, sample: pathlib.Path, picture: str) -> pathlib.Path:
    if path.exists() and path.stat().st_mtime > sample.stat().st_mtime:
        return path
    part = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    try:
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-stream_loop", "-1", "-i", sample, "-t", str(SECONDS), "-vf", picture,
                        "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "128k",
                        part], check=True, stdin=subprocess.DEVNULL)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    print(f"{path.name}: {SECONDS} s, {path.stat().st_size * 8 / SECONDS / 1e6:.1f} Mbit/s", flush=True)
    return path


def missing(what: object, remedy: str) -> int:
    print(f"{what} is missing; run '{remedy}' first", file=sys.stderr)
    return 69


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the clips that the benches measure on.")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "bench", help="folder of the clips")
    parser.add_argument("--sample", type=pathlib.Path, default=ROOT / "target" / "sample" / "farm.mp4", help="the video to loop")
    arguments = parser.parse_args()
    make(arguments.out, arguments.sample)
    return 0


if __name__ == "__main__":
    sys.exit(main())
