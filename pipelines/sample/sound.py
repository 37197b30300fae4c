"""Level, loop and mix the recordings and the spoken lines."""

import pathlib
import random
import subprocess
import tempfile

import numpy as np

RATE = 48_000  # samples per second
ANIMAL_LEVEL, VOICE_LEVEL = -21.0, -20.0  # dBFS, RMS of the parts that are heard
CEILING = -3.0  # dBFS, highest peak; leaves room for panning and for the overshoot of lossy coding
HEARD = 25.0  # dB below the loudest part, below that a part counts as a pause
FADE_IN, FADE_OUT = 0.01, 0.08  # seconds; short enough to go unnoticed, long enough not to click
LEAD, TAIL = 0.2, 0.25  # seconds without recording at the start and end of a shot


class SoundError(RuntimeError):
    """A sound that cannot be made; the message names it and the reason."""


def decode(encoded: bytes, name: str) -> np.ndarray:
    """Return a recording in any format GStreamer knows as float32 samples [n] at RATE, all channels joined."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "sound").write_bytes(encoded)
        # fmt: off
        command = ["gst-launch-1.0", "-q", "filesrc", "location=sound", "!", "decodebin", "!", "audioconvert", "!",
                   "audioresample", "quality=10", "!",
                   f"audio/x-raw,format=F32LE,layout=interleaved,channels=1,rate={RATE}", "!",
                   "filesink", "location=samples"]
        # fmt: on
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise SoundError(f"{name}: GStreamer could not decode it: {done.stderr.strip()[-400:]}")
        return np.fromfile(pathlib.Path(folder, "samples"), "<f4")


def speak(line: str, voice: dict) -> np.ndarray:
    """Return `line` spoken by flite as float32 samples [n] at RATE, without the silence around it."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "line.wav")
        command = ["flite", "-voice", voice["name"], "--setf", f"duration_stretch={voice['stretch']}"]
        done = subprocess.run([*command, "-t", line, "-o", str(path)], capture_output=True, text=True, timeout=60)
        if done.returncode or not path.exists():
            raise SoundError(f'flite could not speak "{line}": {done.stderr.strip()[-400:]}')
        samples = decode(path.read_bytes(), line)
    heard = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    margin = RATE // 50
    return samples[max(0, heard[0] - margin) : heard[-1] + margin]


def level(samples: np.ndarray, target: float) -> np.ndarray:
    """Scale `samples` so that what is heard of them has an RMS of `target` dBFS and no peak passes CEILING."""
    block = RATE // 20
    blocks = samples[: len(samples) // block * block].reshape(-1, block)
    power = np.mean(np.square(blocks, dtype=np.float64), axis=1)
    heard = power[power > power.max() * 10 ** (-HEARD / 10)]
    gain = 10 ** (target / 20) / np.sqrt(heard.mean())
    return samples * np.float32(min(gain, 10 ** (CEILING / 20) / np.abs(samples).max()))


def fade(samples: np.ndarray) -> np.ndarray:
    """Return a copy of `samples` that starts and ends softly."""
    samples = samples.copy()
    rise, fall = (min(int(seconds * RATE), len(samples) // 2) for seconds in (FADE_IN, FADE_OUT))
    samples[:rise] *= np.sin(np.linspace(0, np.pi / 2, rise, dtype=np.float32)) ** 2
    samples[-fall:] *= np.cos(np.linspace(0, np.pi / 2, fall, dtype=np.float32)) ** 2
    return samples


def repeat(samples: np.ndarray, length: int, pause: float | None, chance: random.Random) -> np.ndarray:
    """Fill `length` samples with takes of a recording, `pause` seconds (give or take a quarter) between them.

    The last take is cut short at the end, or left out where less than half of it would be heard.
    Without a pause there is one take.
    """
    track = np.zeros(length, np.float32)
    position = 0
    while position == 0 or length - position >= len(samples) // 2:
        take = fade(samples[: length - position])
        track[position : position + len(take)] = take
        if pause is None:
            break
        position += len(take) + int(pause * chance.uniform(0.75, 1.25) * RATE)
    return track


def place(track: np.ndarray, start: int, samples: np.ndarray, side: float) -> None:
    """Mix mono `samples` into the stereo `track` [n, 2] from sample `start` on; side: -1 left, 0 centre, 1 right."""
    angle = (side + 1) * np.pi / 4  # equal power wherever it stands
    pan = np.sqrt(2) * np.array([np.cos(angle), np.sin(angle)], np.float32)
    track[start : start + len(samples)] += samples[:, None] * pan
