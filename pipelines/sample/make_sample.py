#!/usr/bin/env python3
"""Make the sample video: real photos and recordings of farm animals, with spoken lines.

    python3 make_sample.py --out DIR [--force] [--data DIR]

DIR/farm.mp4 is described by recipe.json beside this file; DIR/farm.truth.json says what is to be seen and heard
when, for tests; DIR/farm.sources.txt says who made the photos and recordings. The media come from the Debian
package gcompris-qt-data and are not part of this project. A second run with the same recipe does nothing.

Exit status: 0 made or up to date, 69 something has to be installed first, 70 the video could not be made.
"""

import argparse
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
# What is run, and the Debian package that has it.
PROGRAMS = {"gst-launch-1.0": "gstreamer1.0-tools", "gst-inspect-1.0": "gstreamer1.0-tools", "flite": "flite"}
ELEMENTS = {
    "decodebin": "gstreamer1.0-plugins-base",
    "vorbisdec": "gstreamer1.0-plugins-base",
    "wavparse": "gstreamer1.0-plugins-good",
    "mp4mux": "gstreamer1.0-plugins-good",
    "h264parse": "gstreamer1.0-plugins-bad",
    "rawvideoparse": "gstreamer1.0-plugins-bad",
    "x264enc": "gstreamer1.0-plugins-ugly",
    "avenc_aac": "gstreamer1.0-libav",
}
UNAVAILABLE, FAILED = 69, 70
MAX_TRUTH = 1 << 20  # bytes


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the sample video farm.mp4 and its truth file.")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the results, made if absent")
    parser.add_argument("--force", action="store_true", help="make them even if they are up to date")
    parser.add_argument("--data", type=pathlib.Path, default="/usr/share", help="where gcompris-qt/rcc and doc lie")
    options = parser.parse_args()
    recipe = json.loads((HERE / "recipe.json").read_text())
    collections = {name: options.data / "gcompris-qt" / "rcc" / f"{name}.rcc" for name in media_collections(recipe)}
    if absent := missing_packages(collections.values()):
        print(f"The sample video needs Debian packages: run apt-get install {' '.join(absent)}", file=sys.stderr)
        return UNAVAILABLE
    key = fingerprint(collections.values())
    if not options.force and up_to_date(options.out, key):
        print(f"{options.out / 'farm.mp4'} is up to date")
        return 0
    enter_environment()
    started = time.monotonic()
    try:
        make(options.out, recipe, collections, options.data / "doc" / "gcompris-qt-data" / "copyright", key)
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        print(f"The sample video could not be made: {error}", file=sys.stderr)
        return FAILED
    print(f"{options.out / 'farm.mp4'} made in {time.monotonic() - started:.0f} s")
    return 0


def missing_packages(collections) -> list[str]:
    """Return the Debian packages that have to be installed first."""
    absent = {package for program, package in PROGRAMS.items() if not shutil.which(program)}
    if "gstreamer1.0-tools" not in absent:
        for element, package in ELEMENTS.items():
            if subprocess.run(["gst-inspect-1.0", "--exists", element], check=False).returncode:
                absent.add(package)
    if not all(path.is_file() for path in collections):
        absent.add("gcompris-qt-data")
    return sorted(absent)


def fingerprint(collections) -> str:
    """Return the SHA-256 of everything of ours and of the media packages that the result depends on."""
    digest = hashlib.sha256()
    for path in sorted([*HERE.glob("*.py"), HERE / "recipe.json", REQUIREMENTS]) + sorted(collections):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def up_to_date(out: pathlib.Path, key: str) -> bool:
    """Say whether `out` holds a complete result of the same recipe."""
    try:
        with (out / "farm.truth.json").open("rb") as file:
            truth = json.loads(file.read(MAX_TRUTH))
        video = hashlib.sha256((out / "farm.mp4").read_bytes()).hexdigest()
        return (truth["recipe_sha256"], truth["video_sha256"]) == (key, video) and (out / "farm.sources.txt").is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def enter_environment() -> None:
    """Go on inside a private Python environment with the pinned packages; the first time, make it."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "describe"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    pins = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:8]
    environment = cache / f"sample-python{version}-{pins}"
    if pathlib.Path(sys.prefix).resolve() == environment.resolve():
        return
    cache.mkdir(parents=True, exist_ok=True)
    python = environment / "bin" / "python"
    with (cache / "sample-python.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (environment / "complete").exists():
            print(f"Setting up numpy and Pillow in {environment}")
            pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
            try:
                subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
                subprocess.run([*pip, "--only-binary", ":all:", "--require-hashes", "-r", REQUIREMENTS], check=True)
            except subprocess.CalledProcessError:
                print(
                    "The Python environment could not be set up. Install python3-venv, use Python 3.11 to 3.14, "
                    "and check that the package index can be reached.",
                    file=sys.stderr,
                )
                sys.exit(UNAVAILABLE)
            (environment / "complete").touch()
    sys.stdout.flush()
    os.execv(python, [str(python), __file__, *sys.argv[1:]])


def make(out: pathlib.Path, recipe: dict, collections: dict, copyright_file: pathlib.Path, key: str) -> None:
    """Make the video, the truth file and the list of sources, and move them into `out` when all are complete."""
    # Not at the top of the file: numpy and Pillow are there only inside the private environment.
    import movie
    import rcc
    import scenes

    opened = {name: rcc.Collection(path) for name, path in collections.items()}

    def read(file: str) -> bytes:
        collection, member = file.split(":")
        return opened[collection].read(f"gcompris/src/activities/{member}")

    sound, truth = scenes.score(recipe, read)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".farm-", dir=out) as folder:
        video = pathlib.Path(folder, "farm.mp4")
        movie.encode(scenes.pictures(recipe, read), tuple(recipe["size"]), recipe["fps"], sound, video)
        lag = movie.check(video, truth["frames"], sound)
        content = video.read_bytes()
        print(f"Checked: {truth['frames']} frames, sound {lag:+.2f} ms from its place, {len(content) / 1e6:.1f} MB")
        truth |= {"recipe_sha256": key, "video_sha256": hashlib.sha256(content).hexdigest()}
        sources = pathlib.Path(folder, "farm.sources.txt")
        sources.write_text(scenes.sources(recipe, copyright_file))
        facts = pathlib.Path(folder, "farm.truth.json")
        facts.write_text(json.dumps(truth, indent=1) + "\n")
        for made in (video, sources, facts):  # the truth last: it is what makes the result count as complete
            os.replace(made, out / made.name)


def media_collections(recipe: dict) -> list[str]:
    """Return the names of the resource collections that the recipe takes files from."""
    files = [shot["file"] for shot in recipe["shots"]]
    files += [shot["sound"]["file"] for shot in recipe["shots"] if "sound" in shot]
    return sorted({file.split(":")[0] for file in files})


if __name__ == "__main__":
    sys.exit(main())
