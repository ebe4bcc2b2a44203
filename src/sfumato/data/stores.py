"""Places where files lie: a folder, a zip, a tar. Each lists its files and reads one of them by its name."""

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import re
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError
from .folders import shown, walk

LARGEST = 1 << 32  # bytes of one file: more is not read at once
LARGEST_UNPACKED = 1 << 30  # bytes that a compressed file may promise
UNSUSPECTED, RATIO = 1 << 26, 1000  # what unpacks to more bytes than this, and to so many times its size, is a bomb
LONGEST_HEADER = 1 << 16  # bytes of one header of a tar
ZIP = (b"PK\3\4", b"PK\5\6", b"PK\7\10")
OUTSIDE, TOO_LARGE = "have names that lead outside", "promise more bytes than is safe to read"
OPENERS: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError),
    *(NotImplementedError, OverflowError, RecursionError),
)


@dataclass(frozen=True)
class Files:
    """What lies in a store."""

    names: list[str]  # relative, with forward slashes; by name in a folder, in the archive's own order otherwise
    states: np.ndarray  # int64 (files, any): a row changes whenever the file may have; it begins with -1 if that is unknown
    version: str  # a digest of both
    notes: tuple[str, ...] = ()  # what was left out, and why

    def stamp(self, i: int) -> str:
        """The state of file i as a text; empty where it is not known."""
        state = self.states[i].tolist()
        return "-".join(map(str, state)) if state[0] >= 0 else ""


class Store(Protocol):
    """Files by name. Reading needs no lock and no handle that processes or threads would share."""

    root: Path
    name: str  # short, for the names of folders
    sequential: bool  # is reading fast only in the order of the names?

    def files(self) -> Files: ...
    def read(self, name: str) -> bytes: ...


def open_store(path: Path) -> Store | None:
    """The store of a folder, a zip or a tar, known by its content; None for another file.

    An archive is listed at once; UserError if that cannot be done.
    """
    if os.path.isdir(path):
        return FolderStore(path)
    if not os.path.isfile(path):  # what waits for a writer, such as a pipe, is never opened
        return None
    try:
        with open(path, "rb") as file:
            start = file.read(512)
        opener = _opener(start)
        if opener:
            with opener(path) as unpacked:
                start = unpacked.read(512)
    except OSError as error:
        if error.errno is None:  # not the disk but the content
            return None
        raise UserError(f"'{shown(str(path))}' cannot be read: {error.strerror}.") from error
    except DAMAGE:
        return None
    if start.startswith(ZIP):
        return ZipStore(path)
    return TarStore(path) if _begins_tar(start) else None


class FolderStore:
    """The files of a folder and its subfolders, listed anew each time.

    Hidden entries and __MACOSX are left out, and whatever is no file: pipes, devices, links to nothing. Links that
    lead in a circle end there.
    """

    sequential = False

    def __init__(self, root: Path):
        self.root, self.name = root, os.path.basename(os.path.realpath(root)) or "images"

    def files(self) -> Files:
        """Sorted by name; a state is size and time of change. Raises UserError if a subfolder cannot be read."""
        names, states, odd = walk(str(self.root))
        refused = {"are no files but pipes, devices or links that lead nowhere": odd} if odd else {}
        return _files(names, states, refused, self.root)

    def read(self, name: str) -> bytes:
        with open(f"{self.root}/{name}", "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST:
                raise UserError(f"{size} bytes are more than is read at once ({LARGEST})")
            return file.read()


class ZipStore:
    """The files of a zip, read in place. Those that cannot be read safely are left out with a note."""

    sequential = False

    def __init__(self, path: Path):
        """Raises UserError if the zip is damaged, or if none of its files can be read."""
        self.root, self.name, self._state = path, _short(path), _state(path)
        self._index: dict[str, tuple[int, int, int, int, int]] = {}  # name -> offset, packed, size, checksum, method
        refused: dict[str, list[str]] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except (OSError, *DAMAGE) as error:
            raise _damaged(path, error) from error
        for member in members:
            name = _plain(member.filename.replace("\\", "/"))
            why = _zip_refusal(member, name)
            if why is not None:
                refused.setdefault(why, []).append(member.filename)
            elif name and not member.is_dir() and not member.filename.endswith("\\"):
                place = member.header_offset, member.compress_size, member.file_size, member.CRC, member.compress_type
                _put(self._index, name, place, refused)
        states = [(checksum, size) for _, _, size, checksum, _ in self._index.values()]
        self._files = _files(list(self._index), states, refused, path)

    def files(self) -> Files:
        """In the order of the zip; a state is checksum and size."""
        return self._files

    def read(self, name: str) -> bytes:
        offset, packed, size, checksum, method = _at(self._index, name, self.root)
        _refuse_changed(self.root, self._state)
        with open(self.root, "rb") as file:
            file.seek(offset)
            header = file.read(30)
            between = sum(struct.unpack("<HH", header[26:])) if len(header) == 30 else 0  # name and extra field
            if header[:4] != b"PK\3\4" or offset + 30 + between + packed > self._state[0]:
                raise UserError("the zip is damaged where this file should be")
            file.seek(between, os.SEEK_CUR)
            data = file.read(packed)
        if method == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-15).decompress(data, size + 1)  # one more shows that it promised too little
        elif method == zipfile.ZIP_BZIP2:
            data = bz2.BZ2Decompressor().decompress(data, size + 1)
        if len(data) != size or zlib.crc32(data) != checksum:
            raise UserError("damaged within the zip: its checksum differs")
        return data


class TarStore:
    """The regular files of a tar, plain or compressed by gzip, bzip2 or xz.

    A compressed one is `sequential`: a name that lies further on is read by going on from the last one, a name that
    lies before it by beginning again.
    """

    def __init__(self, path: Path):
        """Raises UserError if the tar is damaged or a bomb, or if none of its files can be read."""
        self.root, self.name, self._state = path, _short(path), _state(path)
        self._index: dict[str, tuple[int, int]] = {}  # name -> offset, size
        self._passes: dict[tuple[int, int], _Pass] = {}  # process, thread -> how far it went
        refused: dict[str, list[str]] = {}
        try:
            with _Pass(path) as whole, tarfile.TarFile(fileobj=whole, encoding="utf-8") as archive:  # type: ignore[arg-type]
                self.sequential = whole.packed
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                    self._add(member, refused)
        except UserError:
            raise
        except (OSError, *DAMAGE) as error:
            raise _damaged(path, error) from error
        if whole.last.strip(b"\0"):  # tarfile takes a broken header for the end
            raise _damaged(path, "a header within it is broken")
        states = [(*self._state, offset) for offset, _ in self._index.values()]
        unclosed = f"'{shown(path.name)}' ends without the closing mark of a tar; files may be missing at its end."
        self._files = _files(list(self._index), states, refused, path, () if whole.last else (unclosed,))

    def _add(self, member: tarfile.TarInfo, refused: dict[str, list[str]]) -> None:
        name = _plain(member.name)
        if member.isdir() or name == "":
            return
        if not member.isreg() or member.issparse():
            refused.setdefault("are links, devices or sparse files", []).append(member.name)
        elif name is None:
            refused.setdefault(OUTSIDE, []).append(member.name)
        elif not 0 <= member.size <= (LARGEST_UNPACKED if self.sequential else LARGEST):
            refused.setdefault(TOO_LARGE, []).append(member.name)
        else:
            _put(self._index, name, (member.offset_data, member.size), refused)

    def files(self) -> Files:
        """In the order of the tar; a state is size and time of change of the tar itself, and where in it."""
        return self._files

    def read(self, name: str) -> bytes:
        offset, size = _at(self._index, name, self.root)
        _refuse_changed(self.root, self._state)
        if not self.sequential:
            with open(self.root, "rb") as file:
                file.seek(offset)
                return file.read(size)
        key = os.getpid(), threading.get_ident()
        passing = self._passes.pop(key, None)  # not kept if reading fails
        if passing is None or passing.place > offset:
            passing = _Pass(self.root)
        passing.seek(offset)
        data = passing.take(size)
        self._passes[key] = passing
        return data

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_passes": {}}  # a worker process begins its own


class _Pass:
    """One way through a tar, only ahead and within bounds, for `tarfile` and for reading."""

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            opener = _opener(file.read(8))
        size = os.path.getsize(path)
        self.file = (opener or open)(path, "rb")
        self.packed = opener is not None
        self.place, self.last = 0, b""  # where it is, and the bytes that were read last
        self.limit = max(UNSUSPECTED, RATIO * size)
        self.bomb = UserError(
            f"'{shown(str(path))}' unpacks to more than {RATIO} times its {size} bytes, as no pictures do. "
            "If you trust it, unpack it yourself and name the folder."
        )

    def take(self, count: int) -> bytes:
        self.last = self.file.read(count)
        self.place += len(self.last)
        return self.last

    def read(self, count: int) -> bytes:
        if not 0 <= count <= LONGEST_HEADER:
            raise tarfile.ReadError("a header has an absurd length")
        return self.take(count)

    def tell(self) -> int:
        return self.place

    def seek(self, place: int) -> None:
        if place < self.place:
            raise tarfile.ReadError("a header points backwards")
        if not self.packed:
            self.place = self.file.seek(place)
        while self.place < place:
            if self.place > self.limit:
                raise self.bomb
            if not self.take(min(place - self.place, 1 << 20)):
                raise EOFError("it is cut short")

    def __enter__(self) -> "_Pass":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _files(
    names: list[str], states: ArrayLike, refused: dict[str, list[str]], path: Path, notes: tuple[str, ...] = ()
) -> Files:
    """`refused` lists what was left out under the reason. Raises UserError if nothing remains beside it."""
    for why, some in refused.items():
        listed = ", ".join(shown(name) for name in some[:3]) + (", ..." if len(some) > 3 else "")
        notes += (f"{len(some)} entries of '{shown(path.name)}' {why} and are left out: {listed}.",)
    if notes and not names:
        raise UserError(" ".join(notes) + " Nothing remains. Put the files into a plain folder and name that.")
    states = np.asarray(states, np.int64)
    digest = hashlib.blake2b("\0".join(names).encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(repr(states.shape).encode() + states.tobytes())
    return Files(names, states, digest.hexdigest(), notes)


def _plain(name: str) -> str | None:
    """The name of a member as a relative path; empty for what is not listed (as in a folder), None if it leads outside."""
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
        return None
    if "./" in name or "//" in name:
        name = posixpath.normpath(name)
    hidden = name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name
    return "" if hidden else name


def _zip_refusal(member: zipfile.ZipInfo, name: str | None) -> str | None:
    if name is None:
        return OUTSIDE
    if member.flag_bits & 1:
        return "are locked by a password"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        return f"are compressed in a way that is not read (method {member.compress_type})"
    size, packed = member.file_size, member.compress_size
    if member.compress_type == zipfile.ZIP_STORED:
        return TOO_LARGE if size > LARGEST else None
    return TOO_LARGE if size > LARGEST_UNPACKED or (size > UNSUSPECTED and size > RATIO * packed) else None


def _put(index: dict, name: str, place: tuple[int, ...], refused: dict[str, list[str]]) -> None:
    if index.pop(name, None):  # as unpacking would have it; in the order of what is read
        refused.setdefault("are older copies of a file of the same name", []).append(name)
    index[name] = place


def _at(index: dict, name: str, path: Path) -> tuple:
    if name not in index:
        raise UserError(f"There is no file '{shown(name)}' in '{shown(str(path))}'.")
    return index[name]


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"'{shown(str(path))}' cannot be read: {error.strerror}.") from error
    return status.st_size, status.st_mtime_ns


def _refuse_changed(path: Path, state: tuple[int, int]) -> None:
    if _state(path) != state:
        raise UserError(f"'{shown(str(path))}' has changed since it was listed. Begin again.")


def _damaged(path: Path, what: Exception | str) -> UserError:
    if isinstance(what, OSError) and what.strerror:  # the disk, not the content
        return UserError(f"'{shown(str(path))}' cannot be read: {what.strerror}.")
    said = shown(str(what)).strip().rstrip(".") or type(what).__name__
    return UserError(f"'{shown(str(path))}' is cut short or damaged ({said}). Fetch or copy it again.")


def _short(path: Path) -> str:
    return re.sub(r"(?i)(\.zip|\.t[gbx]z2?|(\.tar)?(\.gz|\.bz2|\.xz)|\.tar)$", "", path.name) or path.name


def _opener(start: bytes) -> Callable | None:
    return next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)


def _begins_tar(start: bytes) -> bool:
    if start[257:262] == b"ustar":
        return True
    try:
        return bool(tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape"))  # the older form: its checksum is right
    except DAMAGE:
        return False
