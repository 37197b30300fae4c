"""Read single files out of a Qt binary resource collection (.rcc).

Layout (big-endian): magic "qres", then four u32: version, offsets of the tree, of the data and of the names
(version 3 adds a u32 of flags). A tree node is u32 name offset, u16 flags, then for a folder u32 child count and
u32 first child, for a file u16 territory, u16 language, u32 data offset; version 2 adds a u64 modification time.
A name is u16 length, u32 hash, UTF-16 text. File data is u32 length, then the bytes, zlib-packed data again
preceded by its u32 unpacked length.
"""

import pathlib
import struct
import zlib

MAX_FILE = 64 << 20  # bytes; the collections used here are 1 to 5 MB
MAX_MEMBER = 32 << 20  # bytes, unpacked
MAX_CHILDREN = 4096
COMPRESSED, FOLDER, COMPRESSED_ZSTD = 1, 2, 4


class ResourceError(RuntimeError):
    """A collection that cannot be read; the message names the file and the reason."""


class Collection:
    """One .rcc file, opened for reading members by their path."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        if path.stat().st_size > MAX_FILE:
            raise ResourceError(f"{path}: larger than {MAX_FILE >> 20} MiB, not a collection this reader expects")
        self._bytes = path.read_bytes()
        if self._bytes[:4] != b"qres":
            raise ResourceError(f"{path}: no Qt resource collection (the magic bytes are missing)")
        version, self._tree, self._data, self._names = self._unpack(">IIII", 4)
        if not 1 <= version <= 3:
            raise ResourceError(f"{path}: resource format version {version} is unknown, 1 to 3 are supported")
        self._node_size = 14 if version == 1 else 22

    def read(self, member: str) -> bytes:
        """Return the bytes of `member`, a slash-separated path."""
        node = 0
        for part in member.split("/"):
            node = self._child(node, part, member)
        flags, offset = self._node(node)[1], self._unpack(">I", self._tree + node * self._node_size + 10)[0]
        if flags & (FOLDER | COMPRESSED_ZSTD):
            kind = "a folder" if flags & FOLDER else "packed with Zstandard"
            raise ResourceError(f"{self.path}: {member} is {kind}, only plain and zlib members can be read")
        start = self._data + offset
        (length,) = self._unpack(">I", start)
        packed = self._slice(start + 4, length)
        if not flags & COMPRESSED:
            return packed
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(packed[4:], MAX_MEMBER)
        except zlib.error as error:
            raise ResourceError(f"{self.path}: {member} is damaged ({error})") from None
        if not unpacker.eof:
            raise ResourceError(f"{self.path}: {member} is cut short or unpacks to more than {MAX_MEMBER >> 20} MiB")
        return content

    def _child(self, node: int, name: str, member: str) -> int:
        _, flags, count, first = self._node(node)
        if flags & FOLDER and count <= MAX_CHILDREN:
            for child in range(first, first + count):
                if self._name(self._node(child)[0]) == name:
                    return child
        raise ResourceError(f"{self.path}: {member} is not inside; another version of the package may be installed")

    def _node(self, index: int) -> tuple[int, int, int, int]:
        return self._unpack(">IHII", self._tree + index * self._node_size)

    def _name(self, offset: int) -> str:
        (length,) = self._unpack(">H", self._names + offset)
        return self._slice(self._names + offset + 6, 2 * length).decode("utf-16-be", "replace")

    def _unpack(self, layout: str, offset: int) -> tuple:
        return struct.unpack(layout, self._slice(offset, struct.calcsize(layout)))

    def _slice(self, start: int, length: int) -> bytes:
        if start + length > len(self._bytes):
            raise ResourceError(f"{self.path}: damaged, an entry points past the end of the file")
        return self._bytes[start : start + length]
