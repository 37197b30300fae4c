"""Encode frames and sound into an MP4 file, and check that they lie where they were put."""

import pathlib
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
from sound import RATE

# The AAC encoder puts one block before the first sample, and mp4mux (GStreamer 1.22) writes no edit list that would
# take it away again. Leaving out as many samples (silence) at the start puts the rest in its place for every reader.
ENCODER_DELAY = 1024  # samples, avenc_aac
MAX_LAG = 48  # samples, 1 ms
MAX_HEADER = 16 << 20  # bytes
CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


class MovieError(RuntimeError):
    """A movie that cannot be written or is not what it should be; the message says why."""


def encode(frames: Iterable[bytes], size: tuple[int, int], fps: int, sound: np.ndarray, path: pathlib.Path) -> None:
    """Write `path`: `frames` (packed RGB) as H.264, `sound` (float32 [n, 2] at RATE) as AAC.

    No B-frames: the first frame then has time 0 in the file without an edit list. No rate limit (VBV): with one, the
    bytes of two runs differ.
    """
    samples = path.with_suffix(".f32")
    sound[ENCODER_DELAY:].astype("<f4").tofile(samples)
    width, height = size
    # fmt: off
    command = [
        "gst-launch-1.0", "-q", "mp4mux", "name=mux", "faststart=true", "!", "filesink", f"location={path.name}",
        "fdsrc", "fd=0", f"blocksize={width * height * 3}", "!",
        "rawvideoparse", "format=rgb", f"width={width}", f"height={height}", f"framerate={fps}/1", "!",
        "videoconvert", "!", "video/x-raw,format=I420,colorimetry=bt709", "!",
        "x264enc", "pass=qual", "quantizer=23", "speed-preset=veryfast", "threads=2", "bframes=0", "vbv-buf-capacity=0",
        f"key-int-max={2 * fps}", "!", "h264parse", "!", "queue", "!", "mux.",
        "filesrc", f"location={samples.name}", "!",
        "rawaudioparse", "pcm-format=f32le", f"sample-rate={RATE}", "num-channels=2", "!", "audioconvert", "!",
        "avenc_aac", "bitrate=160000", "!", "aacparse", "!", "queue", "!", "mux.",
    ]
    # fmt: on
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=path.parent, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            for frame in frames:
                process.stdin.write(frame)
            process.stdin.close()
        except BrokenPipeError:
            pass  # the encoder has stopped; its messages say why
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.wait(timeout=120) or not path.exists():
            log.seek(0)
            raise MovieError(f"GStreamer could not encode the movie: {log.read()[-1000:].strip()}")
    samples.unlink()
    _forget_time(path)


def check(path: pathlib.Path, frames: int, sound: np.ndarray) -> float:
    """Return by how many milliseconds the decoded sound is late; raise if that or the frame count is wrong."""
    header = path.read_bytes()[:MAX_HEADER]
    counts = [struct.unpack_from(">I", header, at + 8)[0] for kind, at in _boxes(header) if kind == b"stsz"]
    if frames not in counts:
        raise MovieError(f"{path.name}: the tracks hold {counts} samples, {frames} frames were encoded")
    # fmt: off
    command = ["gst-launch-1.0", "-q", "filesrc", f"location={path.name}", "!", "qtdemux", "!", "aacparse", "!",
               "avdec_aac", "!", "audioconvert", "!",
               f"audio/x-raw,format=F32LE,layout=interleaved,channels=1,rate={RATE}", "!", "fdsink", "fd=1"]
    # fmt: on
    done = subprocess.run(command, cwd=path.parent, capture_output=True, timeout=120)
    decoded = np.frombuffer(done.stdout, "<f4")
    length = 1 << (len(decoded) + len(sound)).bit_length()
    likeness = np.fft.irfft(np.fft.rfft(decoded, length) * np.conj(np.fft.rfft(sound.mean(1), length)), length)
    lag = int(likeness.argmax())
    lag -= length if lag > length // 2 else 0
    if not len(decoded) or abs(lag) > MAX_LAG:
        raise MovieError(
            f"{path.name}: the sound lies {1000 * lag / RATE:.1f} ms late of the picture; "
            f"this AAC encoder needs another ENCODER_DELAY than {ENCODER_DELAY} samples"
        )
    return 1000 * lag / RATE


def _forget_time(path: pathlib.Path) -> None:
    """Set the dates in the header to 0, so that the same input gives the same bytes."""
    with path.open("r+b") as file:
        header = file.read(MAX_HEADER)
        for kind, at in _boxes(header):
            if kind in (b"mvhd", b"tkhd", b"mdhd"):
                file.seek(at + 4)
                file.write(bytes(16 if header[at] == 1 else 8))  # version 1 has 64-bit dates


def _boxes(data: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int]]:
    """Yield the kind and the content's offset of each box in the movie header, outer boxes first."""
    end = len(data) if end is None else min(end, len(data))
    while at + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8
        if kind in CONTAINERS:
            yield from _boxes(data, at + 8, at + length)
        if length < 8 or kind == b"mdat":
            return
        at += length
