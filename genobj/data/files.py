"""Image files in a folder or a zip archive: which there are, and their bytes. Nothing here decodes an image."""

import abc
import os
import stat
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
LARGEST = 2**28
"""Bytes of one file at most, unpacked: what claims to be more is refused before anything is unpacked."""
LABELS = "dataset.json"
_LOCAL = struct.Struct("<4s22xHH")  # of a local file header: signature, length of the name, length of the extra field
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


class Unreadable(ValueError):
    """A file whose bytes cannot be had, or hold no image of the kind that is wanted; the message names no file."""


class Files(abc.ABC):
    """Files by name. Reading is safe from several threads and from forked and pickled copies."""

    where: Path
    """The folder or archive, for messages."""

    @abc.abstractmethod
    def names(self) -> list[str]:
        """All files, sorted, with / between folders. ValueError where they cannot be listed."""

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file; raises Unreadable."""

    def images(self) -> list[str]:
        """The files that are images by their suffix, sorted."""
        return [name for name in self.names() if os.path.splitext(name)[1].lower() in SUFFIXES]


class Folder(Files):
    """Files below a folder. Symbolic links are followed, but not in circles."""

    def __init__(self, where: Path):
        self.where = where

    def names(self) -> list[str]:
        """All files below the folder."""
        try:
            return sorted(_below(self.where, "", ()))
        except OSError as error:
            raise ValueError(f"{error.filename or self.where} cannot be read: {error.strerror or error}") from None

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        try:
            number = os.open(self.where / name, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
            with os.fdopen(number, "rb") as file:
                status = os.fstat(number)
                if not stat.S_ISREG(status.st_mode):
                    raise Unreadable("is no file")
                if status.st_size > LARGEST:
                    raise Unreadable(f"is {status.st_size} bytes large, which is no image")
                return file.read(LARGEST)
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror or error}") from None


class Archive(Files):
    """Files in a zip archive, stored or deflated, each with its checksum.

    The directory is read once by `zipfile`; files are then read by position, which needs no lock between threads.
    """

    def __init__(self, where: Path):
        self.where = where
        try:
            self._open()
            with zipfile.ZipFile(where) as archive:
                entries = archive.infolist()
        except OSError as error:
            raise ValueError(f"{where} cannot be read: {error.strerror or error}") from None
        except Exception as error:  # whatever zipfile trips over in a directory that is not one
            raise ValueError(f"{where} is no whole zip archive ({error}); fetch or write it again") from None
        self._entries = {entry.filename: entry for entry in entries if not entry.is_dir()}

    def names(self) -> list[str]:
        """All files of the archive."""
        return sorted(self._entries)

    def read(self, name: str) -> bytes:
        """The bytes of a file, whose length and checksum are compared with the directory's."""
        entry = self._entries[name]
        if entry.file_size > LARGEST:
            raise Unreadable(f"claims to be {entry.file_size} bytes large, which is no image")
        if entry.flag_bits & 1:
            raise Unreadable("is encrypted; write the archive without a password")
        if entry.compress_type not in (STORED, DEFLATED):
            raise Unreadable("is packed by another method than zip's own; write the archive with 'zip -0'")
        packed = self._packed(entry)
        data = packed if entry.compress_type == STORED else _inflated(packed, entry.file_size)
        if len(data) != entry.file_size or zlib.crc32(data) != entry.CRC:
            raise Unreadable("is damaged: its bytes do not match the archive's checksum")
        return data

    def _open(self) -> None:
        self._file = os.open(self.where, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def _packed(self, entry: zipfile.ZipInfo) -> bytes:
        try:
            header = os.pread(self._file, _LOCAL.size, entry.header_offset)
            if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
                raise Unreadable("is not where the archive's directory says; the archive is damaged or cut short")
            _, name, extra = _LOCAL.unpack(header)
            size = min(entry.compress_size, LARGEST)
            return os.pread(self._file, size, entry.header_offset + _LOCAL.size + name + extra)
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror or error}") from None

    def __getstate__(self) -> tuple[Path, dict[str, zipfile.ZipInfo]]:
        return self.where, self._entries

    def __setstate__(self, state: tuple[Path, dict[str, zipfile.ZipInfo]]) -> None:
        self.where, self._entries = state
        self._open()


def opened(path: str, setting: str) -> Files:
    """The folder or zip archive at `path`; ValueError that names `setting` if there is neither."""
    if told := absent(path, setting):
        raise ValueError(told)
    where = Path(path).expanduser()
    return Folder(where) if where.is_dir() else Archive(where)


def absent(path: str, setting: str) -> str | None:
    """What to type where nothing is at `path`; None if something is."""
    if path and Path(path).expanduser().exists():
        return None
    what = f"nothing is at {path}" if path else "nothing is set"
    return f"data.{setting}: {what}; type data.{setting}=PATH to say where the images are"


def _below(root: Path, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Names of the files below `folder` of `root`; above: devices and inodes of the folders that it lies in."""
    at = root / folder
    status = at.stat()
    here = status.st_dev, status.st_ino
    if here in above:
        raise ValueError(f"{at} is a symbolic link to a folder that it lies in; remove it")
    with os.scandir(at) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir():
            yield from _below(root, f"{folder}{entry.name}/", (*above, here))
        else:
            yield f"{folder}{entry.name}"


def _inflated(packed: bytes, size: int) -> bytes:
    """At most one byte more than `size`, however much is packed."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    except zlib.error:
        raise Unreadable("is damaged: it cannot be unpacked") from None
