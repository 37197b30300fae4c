#!/usr/bin/env python3
"""`describe` against the plain Python chain of the same ONNX files, side by side.

    python3 benches/compare.py [--pairs N] [--pack DIR] [FILE ...]

Both sides (target/release/describe and chain.py) describe the same file as whole processes, in turn: A B A B ..., so that
what else the machine does falls on both. One run of each comes first and is not counted. Reported are medians of

* wall: seconds from start to end, by the monotonic clock;
* processor: user and system seconds of the process and its children;
* memory: the peak resident size of the largest process (the kernel's `ru_maxrss`), and of all processes of the side together
  (sampled 20 times a second; the chain has ffmpeg beside it, `describe` is one process);

and the ratio of each pair, next to the goals: at most 0.6 times the chain's wall time and 0.5 times its memory. Exit status:
0 measured (whatever the figures), 69 something is missing, 70 a side failed.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import threading
import time

import media

sys.path.insert(0, str(media.ROOT / "models" / "lite"))
import fetch  # noqa: E402  (it lies in another folder)

GOALS = {"wall": 0.6, "memory": 0.5}
SAMPLES_A_SECOND = 20
FAILED = 70


def machine() -> str:
    """Return processor, cores, system, load and date in one line."""
    def first(path: str, key: str) -> str:
        lines = pathlib.Path(path).read_text().splitlines()
        return next((line.split(sep, 1)[1].strip(' \t"') for line in lines for sep in ":=" if line.startswith(key) and sep in line), "?")

    cores = len(os.sched_getaffinity(0))
    return (f"{first('/proc/cpuinfo', 'model name')}, {cores} cores, {first('/etc/os-release', 'PRETTY_NAME')}, Linux {platform.release()}, "
            f"{platform.machine()}, load {os.getloadavg()[0]:.1f}, {datetime.date.today()}")


class Resident(threading.Thread):
    """Watches the resident size of a process and all its descendants; `peak` in bytes."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.peak, self.over = pid, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(1 / SAMPLES_A_SECOND):
            self.peak = max(self.peak, self.size(self.pid))

    def size(self, pid: int) -> int:
        try:
            own = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            children = [child for task in pathlib.Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
        except (OSError, IndexError):  # it has ended
            return 0
        return own + sum(self.size(int(child)) for child in children)


def measure(command: list[str]) -> tuple[dict, str]:
    """Run a command; return its figures (seconds and bytes) and what it said on stdout."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    watch = Resident(process.pid)
    errors: list[bytes] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    said = process.stdout.read()
    reader.join()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    watch.over.set()
    watch.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print(f"{command[0]} ended with status {process.returncode}:\n{errors[0].decode(errors='replace')}", file=sys.stderr)
        sys.exit(FAILED)
    largest = usage.ru_maxrss * 1024
    figures = {"wall": wall, "processor": usage.ru_utime + usage.ru_stime, "memory": largest, "together": max(watch.peak, largest)}
    return figures, said.decode(errors="replace")


def kinds(path: pathlib.Path) -> str:
    """Return how many observations of each kind a file of JSON lines has."""
    found: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        kind = json.loads(line)["kind"]
        found[kind] = found.get(kind, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))


def compare(file: pathlib.Path, pairs: int, pack: pathlib.Path, python: pathlib.Path) -> None:
    out = media.ROOT / "target" / "bench" / "compare"
    out.mkdir(parents=True, exist_ok=True)
    ours, chain = out / f"{file.stem}.jsonl", out / f"{file.stem}.chain.jsonl"
    sides = {
        "describe": [media.ROOT / "target" / "release" / "describe", file, "--threads", "2", "--pack", pack, "--out", out],
        "chain": [python, "-B", media.ROOT / "benches" / "chain.py", file, "--pack", pack, "--out", chain],
    }
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    said = ""
    for turn in range(pairs + 1):
        for side, command in sides.items():
            # The chain makes its Python environment where there is none: that belongs to the run that does not count.
            command = [sys.executable, *command[1:]] if side == "chain" and not turn else command
            figures, said = measure([str(word) for word in command])
            if turn:
                runs[side].append(figures)
    report(file, runs)
    for side, path in (("describe", ours), ("chain", chain)):
        print(f"{side:9} found {kinds(path)}")
    stages = json.loads(said.splitlines()[-1])
    print("chain, last run, seconds: " + ", ".join(f"{stage} {took:.2f}" for stage, took in stages["stages"].items())
          + f"; of these in ONNX Runtime {sum(stages['onnx'].values()):.2f}", flush=True)


def report(file: pathlib.Path, runs: dict[str, list[dict]]) -> None:
    print(f"\n{file.name}: median of {len(runs['chain'])} pairs")
    print(f"{'':22}{'describe':>10}{'chain':>10}{'ratio':>8}   {'lowest and highest':20}goal")
    names = {"wall": ("wall, s", 1), "processor": ("processor, s", 1), "memory": ("largest process, MB", 1e6), "together": ("all processes, MB", 1e6)}
    for key, (name, unit) in names.items():
        ours, theirs = ([run[key] / unit for run in runs[side]] for side in ("describe", "chain"))
        ratios = [a / b for a, b in zip(ours, theirs)]
        ratio = statistics.median(ratios)
        goal = f"{GOALS[key]:.1f} {'reached' if ratio <= GOALS[key] else 'missed'}" if key in GOALS else ""
        digits = 2 if unit == 1 else 0
        print(f"{name:22}{statistics.median(ours):10.{digits}f}{statistics.median(theirs):10.{digits}f}{ratio:8.2f}   "
              f"{min(ratios):.2f} to {max(ratios):<12.2f}{goal}")


def main() -> int:
    data = pathlib.Path(os.environ.get("XDG_DATA_HOME") or pathlib.Path.home() / ".local" / "share")
    parser = argparse.ArgumentParser(description="Measure describe against the plain Python chain, in turn.")
    parser.add_argument("files", type=pathlib.Path, nargs="*", metavar="FILE", help="videos; without any, the two of media.py")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side that count")
    parser.add_argument("--pack", type=pathlib.Path, default=data / "describe" / "packs" / "lite", help="folder of the pack")
    parser.add_argument("--machine", action="store_true", help="only say what machine this is")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    if arguments.machine:
        return 0
    files = arguments.files or media.make(media.ROOT / "target" / "bench", media.ROOT / "target" / "sample" / "farm.mp4")
    python = fetch.environment(fetch.default_cache()) / "bin" / "python"
    needed = {media.ROOT / "target" / "release" / "describe": "make build", arguments.pack / "describe.json": "make pack"}
    for path, remedy in (needed | {file: "make sample" for file in files}).items():
        if not path.exists():
            return media.missing(path, remedy)
    for file in files:
        compare(file, max(1, arguments.pairs), arguments.pack, python)
    return 0


if __name__ == "__main__":
    sys.exit(main())
