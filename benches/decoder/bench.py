#!/usr/bin/env python3
"""Our decoder next to ONNX Runtime in Python and to onnxruntime-genai, side by side.

    python3 benches/decoder/bench.py [--rounds N] [--out DIR] [MODEL ...]

The models are those of make.py, made on first use (4 GB under target/bench); the sides are main.rs and those of loop.py. Each
is one process on 2 threads that loads a model once; then they are measured in turn, A B C D A B C D ..., so that what else the
machine does falls on all. One round comes first and is not counted. Reported are medians of

* decode: tokens a second, 64 after a prompt of 256; the share of that time outside ONNX Runtime's run;
* prefill: tokens a second of a prompt of 512;
* second: seconds for a prompt of 320 that begins with the 256 of the one before, and how many tokens were run for it;
* memory: the peak resident size while loading and while running, as parts of weights and cache (those of 512 tokens);

and of the ratio of each round, ours to theirs, next to the goals. Exit status: 0 measured (whatever the figures), 70 a side
failed or the sides do not answer alike, 75 onnxruntime-genai cannot be fetched.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE.parent), str(ROOT / "models" / "lite")]
import compare  # noqa: E402  (it lies in another folder)
import fetch  # noqa: E402

OURS, PLAIN, GENAI = "ours", "plain", "genai"
SIDES = [OURS, PLAIN, "binding", GENAI]
PROMPT, ANSWER, CACHED = 512, 64, 512
FAILED, NO_NETWORK = 70, 75


class Side:
    """A process that measures itself when asked."""

    def __init__(self, name: str, command: list, environment: dict):
        self.name, self.rounds = name, []
        words = [str(word) for word in command]
        self.log = open(words[-1] + f"/{name}.log", "w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env=environment, text=True)

    def line(self) -> str:
        """The next line that it writes; an error with the last that it said if it ends instead."""
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            said = [text.strip() for text in self.log.read().splitlines() if text.strip()]
            raise RuntimeError(said[-1] if said else f"it ended with status {self.process.wait()}")
        return line

    def ask(self, order: str) -> dict:
        with contextlib.suppress(BrokenPipeError):
            print(order, file=self.process.stdin, flush=True)
        return json.loads(self.line())

    def peak(self) -> int:
        """Its largest resident size since this was asked last, in bytes."""
        proc = pathlib.Path(f"/proc/{self.process.pid}")
        lines = (proc / "status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        (proc / "clear_refs").write_text("5")
        return peak

    def end(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.log.close()


def start(folder: pathlib.Path, ours: pathlib.Path, genai: pathlib.Path) -> list[Side]:
    """Start every side that accepts the model; say why one does not."""
    sides = []
    for name in SIDES:
        command = [ours, folder] if name == OURS else [sys.executable, "-B", HERE / "loop.py", name, folder]
        side = Side(name, command, os.environ | {"PYTHONPATH": str(genai)})
        try:
            side.line()
            side.loading = side.peak()
            side.first = side.ask("measure")
            sides.append(side)
        except RuntimeError as error:
            side.end()
            if name != GENAI:
                raise RuntimeError(f"{folder.name}, {name}: {error}") from error
            print(f"{folder.name}: {GENAI} does not run it: {error}", flush=True)
    return sides


def measure(folder: pathlib.Path, rounds: int, ours: pathlib.Path, genai: pathlib.Path) -> None:
    sides = start(folder, ours, genai)
    for side in sides:
        # The kernels of 4 bits round in another order for one row than for many, so genai's cut of the prompt shows.
        if side.first["answer"][0] != sides[0].first["answer"][0]:
            raise RuntimeError(f"{folder.name}: {side.name} answers {side.first['answer'][:4]}, ours {sides[0].first['answer'][:4]}")
    for _ in range(rounds):
        for side in sides:
            side.rounds.append(side.ask("measure"))
    report(folder, sides)
    guesses = [sides[0].ask("speculate") for _ in range(3)]
    said = guesses[0]
    print(f"answer in a schema's form, {said['tokens']} tokens: {said['tokens'] / middle(guesses, 'plain'):.1f} tokens/s, with guesses "
          f"{said['tokens'] / middle(guesses, 'speculation'):.1f} ({said['guessed']} guessed; "
          f"{statistics.median(one['plain'] / one['speculation'] for one in guesses):.2f} x; "
          f"the answer is {'the same' if said['same'] else 'another'})", flush=True)
    for side in sides:
        side.end()


def middle(rounds: list[dict], key: str) -> float:
    return statistics.median(one[key] for one in rounds)


def report(folder: pathlib.Path, sides: list[Side]) -> None:
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = (folder / "onnx" / "weights.onnx_data").stat().st_size
    cache = 4 * 2 * about["kv_heads"] * CACHED * sum(
        about["full_head_dim"] if "full_every" in about and not (layer + 1) % about["full_every"] else about["head_dim"]
        for layer in range(about["layers"]))
    print(f"\n{folder.name}: {weights / 1e6:.0f} MB of weights, {cache / 1e6:.0f} MB of cache; medians of {len(sides[0].rounds)} rounds")
    print(f"{'':9}{'decode/s':>10}{'ratio':>7}{'outside':>9}{'prefill/s':>11}{'ratio':>7}{'second, s':>11}{'tokens':>8}{'loading':>9}{'running':>9}")
    ours = sides[0].rounds
    for side in sides:
        ratio = {key: statistics.median(b[key] / a[key] for a, b in zip(ours, side.rounds)) for key in ("decode", "prefill")}
        outside = f"{middle(side.rounds, 'outside'):9.1%}" if side.rounds[0]["outside"] is not None else f"{'':9}"
        print(f"{side.name:9}{ANSWER / middle(side.rounds, 'decode'):10.1f}{ratio['decode']:7.2f}{outside}"
              f"{PROMPT / middle(side.rounds, 'prefill'):11.0f}{ratio['prefill']:7.2f}{middle(side.rounds, 'second'):11.3f}"
              f"{side.rounds[-1]['second_tokens']:8}{side.loading / (weights + cache):9.2f}{side.peak() / (weights + cache):9.2f}")
    goals(sides)


def goals(sides: list[Side]) -> None:
    """Say what the goals of the bench are and whether they are reached."""
    ours, others = sides[0].rounds, sides[1:]
    speed = {side.name: statistics.median(b["decode"] / a["decode"] for a, b in zip(ours, side.rounds)) for side in others}
    best = min(speed, key=speed.get)
    second = middle(ours, "second_tokens") / 64
    for what, found, least in ((f"decode against the best ({best})", speed[best], 1.0), ("decode against plain", speed[PLAIN], 1.3)):
        print(f"{what}: {found:.2f} x, goal {least:.1f} {'reached' if found >= least else 'missed'}")
    outside = middle(ours, "outside")
    print(f"outside ONNX Runtime: {outside:.1%}, goal 3% {'reached' if outside <= 0.03 else 'missed'}; "
          f"second prompt: {second:.2f} x its new tokens, goal 1.05 {'reached' if second <= 1.05 else 'missed'}; "
          f"cache copied by us: {middle(ours, 'copied'):.0f} bytes a token, {middle(ours, 'copied_second'):.0f} for the second prompt", flush=True)


def built() -> pathlib.Path:
    """Build main.rs; return the program."""
    command = ["cargo", "bench", "--no-run", "--bench", "decoder", "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return pathlib.Path(next(said["executable"] for said in found if said.get("executable") and said["target"]["name"] == "decoder"))


def packages(folder: pathlib.Path) -> pathlib.Path:
    """Return the folder with what requirements.txt pins, fetched where it is not there."""
    if not folder.exists():
        fetch.command([sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--require-hashes",
                       "--only-binary=:all:", "--target", str(folder), "-r", str(HERE / "requirements.txt")],
                      "cannot install onnxruntime-genai", "check the network and run again", NO_NETWORK)
    return folder


def main() -> int:
    fetch.enter_environment(fetch.default_cache())
    import make  # needs numpy and onnx

    parser = argparse.ArgumentParser(description="Measure our decoder next to others, in turn.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"some of {', '.join(make.MODELS)}; all without any")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "bench", help="folder of models and packages")
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - set(make.MODELS):
        parser.error(f"there is no model {', '.join(sorted(unknown))}; use {', '.join(make.MODELS)}")
    names = arguments.models or list(make.MODELS)
    print(compare.machine(), flush=True)
    genai, ours = packages(arguments.out / "genai"), built()
    make.make(arguments.out / "decoder", names)
    try:
        for name in names:
            measure(arguments.out / "decoder" / name, max(1, arguments.rounds), ours, genai)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
