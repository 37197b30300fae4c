"""Turn photos into slowly zooming shots."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

Image.MAX_IMAGE_PIXELS = 16_000_000  # the photos have at most 2.1 million


def frames(photo: bytes, zoom: list[list[float]], count: int, size: tuple[int, int]) -> Iterator[bytes]:
    """Yield the `count` frames of one shot, each `size` pixels of packed RGB.

    photo: an encoded picture. zoom: the first and the last view as [centre x, centre y, width], fractions of the
    photo; the height follows from `size`, and a view that sticks out is moved inside. Views have fractions of a
    pixel: rounding them would make a slow zoom tremble.
    """
    picture = Image.open(io.BytesIO(photo)).convert("RGB")

    def frame(index: int) -> bytes:
        box = _view(picture.size, zoom, index / max(1, count - 1), size)
        return picture.resize(size, Image.Resampling.BICUBIC, box=box).tobytes()

    # Resizing releases the interpreter lock, so two threads halve the time; more would only hold more frames.
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, count, 8):
            yield from pool.map(frame, range(start, min(start + 8, count)))


def _view(photo: tuple[int, int], zoom: list[list[float]], t: float, size: tuple[int, int]) -> tuple[float, ...]:
    """Return the view at `t` (0 to 1) as left, top, right, bottom in pixels of the photo."""
    (x0, y0, w0), (x1, y1, w1) = zoom
    scale = w0 * (w1 / w0) ** t  # equal ratios from frame to frame look like an even speed
    # Moving the centre with the width keeps the point that the zoom aims at still.
    moved = (scale - w0) / (w1 - w0) if w1 != w0 else t
    width = scale * photo[0]
    height = width * size[1] / size[0]
    if height > photo[1]:
        width, height = photo[1] * size[0] / size[1], photo[1]
    left = min(max((x0 + (x1 - x0) * moved) * photo[0] - width / 2, 0), photo[0] - width)
    top = min(max((y0 + (y1 - y0) * moved) * photo[1] - height / 2, 0), photo[1] - height)
    return left, top, left + width, top + height
