"""Folders, zips and tars: what is listed is what lies there, and nothing hangs, escapes or swells."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import socket
import struct
import tarfile
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from sfumato.data import folders, stores
from sfumato.data.stores import FolderStore, TarStore, ZipStore, open_store, shown
from sfumato.errors import UserError

DATA = Path(__file__).parents[2] / "shared" / "data"
CONTENTS = {"b/2.png": b"two" * 400, "a.png": bytes(range(256)) * 9, "b/10.png": b"", "b/deep/c.txt": b"text\n"}
PACKERS = {"": lambda data: data, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lambda data: lzma.compress(data, preset=0)}


def write_folder(root, contents=CONTENTS):
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path, contents=CONTENTS, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def tar_bytes(contents=CONTENTS, members=(), form=tarfile.GNU_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in members:
            archive.addfile(info)
    return out.getvalue()


def write(path, data):
    path.write_bytes(data)
    return path


def member(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def refusal(make, *args):
    with pytest.raises(UserError) as caught:
        make(*args)
    text = str(caught.value)
    assert text.endswith(".")
    assert len(text) < 1000
    assert shown(text) == text
    return text


def same(some, others):
    return some.names == others.names and some.version == others.version and np.array_equal(some.states, others.states)


def read_all(store):
    return {name: store.read(name) for name in store.files().names}


# The same files from every place


def everywhere(tmp_path):
    yield FolderStore(write_folder(tmp_path / "folder"))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        yield open_store(write_zip(tmp_path / f"z{method}", method=method))
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for suffix, packer in PACKERS.items():
            yield open_store(write(tmp_path / f"t{form}{suffix}", packer(tar_bytes(form=form))))


def test_every_store_gives_back_what_was_put_into_it(tmp_path):
    for store in everywhere(tmp_path):
        files = store.files()
        assert read_all(store) == CONTENTS
        assert len({"", *map(files.stamp, range(4))}) == 5, store.root  # here all files differ
        assert len(files.states) == 4
        assert files.notes == ()
        assert same(store.files(), files)
        assert {name: store.read(name) for name in reversed(files.names)} == CONTENTS
        kept = pickle.loads(pickle.dumps(store))  # as worker processes receive it
        assert read_all(kept) == CONTENTS


def test_archives_keep_their_order_and_folders_are_sorted(tmp_path):
    folder, *archives = everywhere(tmp_path)
    assert folder.files().names == ["a.png", "b/10.png", "b/2.png", "b/deep/c.txt"]
    for store in archives:
        assert store.files().names == list(CONTENTS)


def test_only_compressed_tars_are_sequential(tmp_path):
    kinds = [(type(store), store.sequential) for store in everywhere(tmp_path)]
    assert kinds[:4] == [(FolderStore, False)] + [(ZipStore, False)] * 3
    assert kinds[4:] == [(TarStore, False), (TarStore, True), (TarStore, True), (TarStore, True)] * 3


def test_stores_have_short_names(tmp_path):
    assert FolderStore(write_folder(tmp_path / "my pictures")).name == "my pictures"
    assert open_store(write_zip(tmp_path / "cars.v2.ZIP")).name == "cars.v2"
    packed = tar_bytes()
    for name in ("mri.tar", "mri.tar.gz", "mri.tgz", "mri.tbz2", "mri.txz", "mri.tar.xz", "mri"):
        assert open_store(write(tmp_path / name, packed)).name == "mri"


def test_what_is_no_store_is_none(tmp_path):
    for k, data in enumerate(
        (b"", b"PK", b"\x89PNG\r\n", gzip.compress(b"no tar"), gzip.compress(b"x" * 999)[:20], bytes(600))
    ):
        assert open_store(write(tmp_path / str(k), data)) is None
    assert open_store(tmp_path / "nowhere") is None
    os.mkfifo(tmp_path / "pipe")
    assert open_store(tmp_path / "pipe") is None


def test_a_tar_without_the_newer_magic_is_known_by_its_checksum(tmp_path):
    data = bytearray(tar_bytes({"a.png": b"old"}))
    data[257:265] = bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert read_all(open_store(write(tmp_path / "old", bytes(data)))) == {"a.png": b"old"}


# What changes is noticed


def test_the_version_follows_names_and_contents(tmp_path):
    root = write_folder(tmp_path / "f")
    store = FolderStore(root)
    first = store.files()
    assert FolderStore(root).files().version == first.version
    os.utime(root / "a.png", ns=(1, 1))
    second = store.files()
    assert second.names == first.names
    assert second.version != first.version
    assert second.stamp(0) == f"{len(CONTENTS['a.png'])}-{1 + os.stat(root / 'a.png').st_ctime_ns}"
    assert second.states[1:].tolist() == first.states[1:].tolist()
    (root / "a.png").rename(root / "A.png")
    assert store.files().version != second.version

    zips = [dict(CONTENTS), {**CONTENTS, "a.png": b"other"}, {"x.png": b"", **CONTENTS}]
    assert len({ZipStore(write_zip(tmp_path / "z", some)).files().version for some in zips}) == 3
    assert ZipStore(write_zip(tmp_path / "y")).files().version == ZipStore(write_zip(tmp_path / "z")).files().version


def test_an_archive_that_changed_is_not_read_by_its_old_list(tmp_path):
    for store in list(everywhere(tmp_path))[1:]:
        store.read("a.png")
        os.utime(store.root, ns=(1, 1))
        assert "has changed" in refusal(store.read, "a.png")
        os.remove(store.root)
        assert "cannot be read" in refusal(store.read, "a.png")


def test_zip_stamps_are_checksum_and_size(tmp_path):
    data = CONTENTS["a.png"]
    files = ZipStore(write_zip(tmp_path / "z")).files()
    assert files.stamp(files.names.index("a.png")) == f"{zlib.crc32(data)}-{len(data)}"


def test_names_that_are_not_there_are_refused(tmp_path):
    for store in list(everywhere(tmp_path))[1:]:
        assert "There is no file '../a.png'" in refusal(store.read, "../a.png")


# Folders


def test_hidden_entries_pipes_sockets_and_devices_are_left_out(tmp_path):
    root = write_folder(tmp_path / "f", {"a.png": b"1", ".hidden.png": b"", ".git/b.png": b"", "__MACOSX/a.png": b""})
    os.mkfifo(root / "b.png")
    os.symlink("/dev/zero", root / "c.png")
    os.symlink("nothing", root / "d.png")
    os.symlink("e.png", root / "e.png")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(root)  # the name of a socket has at most 107 bytes
        listening.bind("f.png")
        os.chdir(here)
        files = FolderStore(root).files()
    assert files.names == ["a.png"]
    assert files.notes[0].startswith("5 entries of 'f' are no files")


def test_links_to_files_and_folders_are_followed_and_circles_end(tmp_path):
    write_folder(tmp_path / "far", {"1.png": b"1"})
    root = write_folder(tmp_path / "f", {"a/2.png": b"2"})
    os.symlink(tmp_path / "far", root / "b")
    os.symlink(root, root / "a" / "again")
    os.symlink(tmp_path / "far" / "1.png", root / "c.png")
    assert read_all(FolderStore(root)) == {"a/2.png": b"2", "b/1.png": b"1", "c.png": b"1"}


def test_links_that_multiply_end(tmp_path):
    for level in range(40):
        (tmp_path / "f" / str(level)).mkdir(parents=True)
        for link in "xy" if level else "":
            os.symlink(tmp_path / "f" / str(level), tmp_path / "f" / str(level - 1) / link)
    write_folder(tmp_path / "f" / "39", {"a.png": b"1"})
    assert 1 <= len(FolderStore(tmp_path / "f" / "0").files().names) <= folders.LINKED


def test_names_that_are_no_text_work_and_can_be_printed(tmp_path):
    name = os.fsdecode(b"caf\xe9\x1b[31m.png")
    root = write_folder(tmp_path / "f", {name: b"1", "b\n.png": b"2"})
    store = FolderStore(root)
    assert read_all(store) == {name: b"1", "b\n.png": b"2"}
    assert shown(name) == "caf\ufffd\ufffd[31m.png"
    shown(name).encode()
    assert read_all(TarStore(write(tmp_path / "t", tar_bytes({name: b"3"})))) == {name: b"3"}
    assert shown("naïve 狐.png") == "naïve 狐.png"


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "f")
    real = os.listdir

    def listdir(folder):
        if str(folder).endswith("deep/"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    text = refusal(FolderStore(root).files)
    assert "deep/' cannot be read: Permission denied" in text
    assert "cannot be read: No such file" in refusal(FolderStore(tmp_path / "gone").files)


@pytest.mark.parametrize("dies", [False, True])
def test_two_processes_find_the_stamps_that_one_finds(tmp_path, monkeypatch, dies):
    root = write_folder(tmp_path / "f", {f"{k % 3}/{k}.png": bytes(k) for k in range(101)})
    alone = FolderStore(root).files()
    monkeypatch.setattr(folders, "FORKED", 10)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    forks, fork = [], os.fork
    monkeypatch.setattr(os, "fork", lambda: forks.append(1) or fork())
    if dies:
        parent, work = os.getpid(), folders._ask
        monkeypatch.setattr(folders, "_ask", lambda *some: work(*some) if os.getpid() == parent else os._exit(9))
    assert same(FolderStore(root).files(), alone)
    assert forks or not hasattr(os, "fork")


def test_files_of_several_depths_keep_their_states(tmp_path):
    files = FolderStore(
        write_folder(tmp_path / "f", {name: bytes(k) for k, name in enumerate(("b.png", "a/c.png", "d.png"))})
    ).files()
    assert files.names == ["a/c.png", "b.png", "d.png"]
    assert files.states[:, 0].tolist() == [1, 0, 2]


def test_of_a_file_that_goes_while_it_is_listed_nothing_is_said(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "f", {"a.png": b"1"})
    monkeypatch.setattr(os, "listdir", lambda _: ["a.png", "gone.png"])
    files = FolderStore(root).files()
    assert (files.names, files.notes) == (["a.png"], ())


def test_a_file_that_may_not_be_asked_for_is_listed_without_a_stamp(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "f", {"a.png": b"1", "b.png": b"2"})
    real = os.stat

    def stat(path, **more):
        if str(path).endswith("b.png"):
            raise PermissionError(13, "Permission denied")
        return real(path, **more)

    monkeypatch.setattr(os, "stat", stat)
    files = FolderStore(root).files()
    assert files.names == ["a.png", "b.png"]
    assert (bool(files.stamp(0)), files.stamp(1)) == (True, "")


def test_a_file_larger_than_is_read_at_once_is_refused(tmp_path):
    root = write_folder(tmp_path / "f", {"a.png": b""})
    os.truncate(root / "a.png", 1 << 40)  # a hole, not bytes
    with pytest.raises(UserError, match="more than is read at once"):
        FolderStore(root).read("a.png")


# Zips


def test_a_zip_is_read_by_threads_and_forked_processes_at_once(tmp_path):
    contents = {f"{k}.png": os.urandom(3000) for k in range(60)}
    for store in (ZipStore(write_zip(tmp_path / "z", contents)), TarStore(write(tmp_path / "t", tar_bytes(contents)))):
        wrong = []

        def compare(store=store, wrong=wrong):
            wrong.extend(name for name, data in contents.items() if store.read(name) != data)

        child = os.fork()
        if child == 0:
            compare()
            os._exit(len(wrong))
        threads = [threading.Thread(target=compare) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert os.waitpid(child, 0)[1] == 0


def test_members_that_cannot_be_read_safely_are_left_out_and_counted(tmp_path):
    names = ("../up.png", "a/../../up.png", "/etc/abs.png", "C:/abs.png", "..\\up.png")
    path = write_zip(
        tmp_path / "z", {"a.png": b"1", **dict.fromkeys(names, b"2"), "d/": b"", ".x/h.png": b"", "__MACOSX/a.png": b""}
    )
    files = ZipStore(path).files()
    assert files.names == ["a.png"]
    assert files.notes == ("5 entries of 'z' have names that lead outside and are left out: "
                           "../up.png, a/../../up.png, /etc/abs.png, ....",)  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["z"]


def test_names_of_other_systems_are_made_plain(tmp_path):
    path = write_zip(tmp_path / "z", {"./a.png": b"1", "cat\\b.png": b"2", "dog//c.png": b"3"})
    assert read_all(ZipStore(path)) == {"a.png": b"1", "cat/b.png": b"2", "dog/c.png": b"3"}
    assert read_all(TarStore(write(tmp_path / "t", tar_bytes({"./b/a.png": b"1"})))) == {"b/a.png": b"1"}


def test_of_duplicate_names_the_last_counts(tmp_path):
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("a.png", b"old")
        archive.writestr("b.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", b"new")
    tar = tar_bytes({"a.png": b"old"})[:1024] + tar_bytes({"b.png": b"1", "a.png": b"new"})
    for store in (ZipStore(tmp_path / "z"), TarStore(write(tmp_path / "t", tar))):
        assert store.files().names == ["b.png", "a.png"]
        assert read_all(store) == {"a.png": b"new", "b.png": b"1"}
        assert "1 entries" in store.files().notes[0]
        assert "older copies" in store.files().notes[0]


def patched(path, count, offset, form, value):
    """Overwrite a field of the central directory's entry `count`."""
    data = bytearray(path.read_bytes())
    place = -1
    for _ in range(count + 1):
        place = data.index(b"PK\1\2", place + 1)
    struct.pack_into(form, data, place + offset, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("offset", "form", "value", "why"),
    [
        (8, "<H", 1, "locked by a password"),
        (10, "<H", 9, "not read (method 9)"),
        (10, "<H", 14, "not read (method 14)"),
        (24, "<I", (1 << 30) + 1, "promise more bytes"),
        (24, "<I", 1 << 27, "promise more bytes"),
    ],
)
def test_locked_strange_and_swelling_members_are_left_out(tmp_path, offset, form, value, why):
    store = ZipStore(patched(write_zip(tmp_path / "z"), 0, offset, form, value))
    assert store.files().names == list(CONTENTS)[1:]
    assert why in store.files().notes[0]
    single = patched(write_zip(tmp_path / "y", {"a.png": b"1"}), 0, offset, form, value)
    assert "Nothing remains" in refusal(ZipStore, single)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [(16, "<I", 1), (24, "<I", 7), (24, "<I", 9000), (20, "<I", 1 << 30), (20, "<I", 3), (42, "<I", 5), (42, "<I", 0x7FFFFFFF)],
)
def test_members_that_are_not_what_the_zip_promises_are_refused(tmp_path, offset, form, value):
    store = ZipStore(patched(write_zip(tmp_path / "z"), 1, offset, form, value))
    assert store.read("b/2.png") == CONTENTS["b/2.png"]
    with pytest.raises((UserError, zlib.error), match=r"damage|invalid"):
        store.read("a.png")


def test_zeros_that_swell_are_a_bomb(tmp_path):
    path = write_zip(tmp_path / "z", {"a.png": bytes(1 << 16), "b.png": b"1"})
    assert len(ZipStore(path).files().names) == 2  # so many zeros may be a picture
    path = tmp_path / "t.gz"
    huge = member("a.png", tarfile.REGTYPE)
    huge.size = 1 << 40
    path.write_bytes(gzip.compress(huge.tobuf() + bytes(9999)))
    assert "cut short" in refusal(TarStore, path)


def test_a_tar_that_swells_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "UNSUSPECTED", 1 << 10)
    monkeypatch.setattr(stores, "RATIO", 10)
    path = write(tmp_path / "t.xz", lzma.compress(tar_bytes({"a.png": bytes(3 << 20), "b.png": b""}), preset=0))
    assert "more than 10 times" in refusal(TarStore, path)
    assert len(TarStore(write(tmp_path / "t", tar_bytes({"a.png": bytes(1 << 14)}))).files().names) == 1
    zipped = write_zip(tmp_path / "z", {"a.png": bytes(1 << 14), "b.png": b"1"})
    assert ZipStore(zipped).files().names == ["b.png"]


@pytest.mark.parametrize("share", [0.001, 0.02, 0.2, 0.5, 0.8, 0.97, 0.999])
def test_zips_that_are_cut_short_are_refused(tmp_path, share):
    data = write_zip(tmp_path / "z").read_bytes()
    cut = data[: max(4, int(len(data) * share))]
    assert "cut short or damaged" in refusal(open_store, write(tmp_path / "cut", cut))


# Tars


def test_links_and_devices_in_a_tar_are_left_out(tmp_path):
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    odd = [member(f"{k}.png", kind, "/etc/passwd") for k, kind in enumerate(kinds)]
    outside = {"../up.png": b"1", "/abs.png": b"2"}
    data = tar_bytes({"a.png": b"1", **outside}, [*odd, member("d", tarfile.DIRTYPE)])
    for suffix, packer in PACKERS.items():
        files = TarStore(write(tmp_path / f"t{suffix}", packer(data))).files()
        assert files.names == ["a.png"]
        assert [note[:9] for note in files.notes] == ["2 entries", "5 entries"]
    assert "Nothing remains" in refusal(TarStore, write(tmp_path / "u", tar_bytes({}, odd)))


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("cut", [600, 1100, 2600, 4700])
def test_tars_that_are_cut_short_are_refused(tmp_path, suffix, cut):
    data = tar_bytes()
    path = write(tmp_path / f"t{suffix}", PACKERS[suffix](data[:cut]))
    assert "cut short or damaged" in refusal(open_store, path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_compressed_tars_whose_packing_is_cut_or_broken_are_refused(tmp_path, suffix, share):
    contents = {f"{k}.png": os.urandom(20_000) for k in range(10)}
    data = bytearray(PACKERS[suffix](tar_bytes(contents)))
    place = int(len(data) * share)
    assert "cut short or damaged" in refusal(TarStore, write(tmp_path / "t", bytes(data[:place])))
    data[place : place + 50] = bytes(50)
    if suffix == ".xz":  # for bzip2 and gzip the sum over a block may come only when its end is read
        assert "cut short or damaged" in refusal(TarStore, write(tmp_path / "t", bytes(data)))


def test_a_broken_header_in_the_middle_is_no_end(tmp_path):
    data = bytearray(tar_bytes())
    data[2048 + 3] ^= 1  # the second member's name
    assert "header within it is broken" in refusal(TarStore, write(tmp_path / "t", bytes(data)))


def test_a_tar_without_its_closing_mark_says_so(tmp_path):
    data = tar_bytes({"a.png": b"1"})[:1024]
    for suffix, packer in PACKERS.items():
        store = TarStore(write(tmp_path / f"t{suffix}", packer(data)))
        assert read_all(store) == {"a.png": b"1"}
        assert "closing mark" in store.files().notes[0]


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"0", b"S"])
@pytest.mark.parametrize("size", [1 << 40, -1024, 1 << 18, 1 << 70])
def test_headers_of_absurd_length_are_refused(tmp_path, kind, size):
    info = tarfile.TarInfo("a")
    info.size = 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = kind
    header[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + tar_bytes()
    for packer in PACKERS.values():
        refusal(TarStore, write(tmp_path / "t", packer(data)))


def test_a_compressed_tar_is_read_ahead_in_one_pass(tmp_path, monkeypatch):
    contents = {f"{k}.png": bytes([k]) * 700 for k in range(30)}
    store = TarStore(write(tmp_path / "t.gz", gzip.compress(tar_bytes(contents))))
    passes, begin = [], stores._Pass
    monkeypatch.setattr(stores, "_Pass", lambda path: passes.append(path) or begin(path))
    assert read_all(store) == contents
    assert len(passes) == 1
    assert store.read("3.png") == contents["3.png"]
    assert len(passes) == 2
    assert store.read("9.png") == contents["9.png"]
    assert len(passes) == 2


def test_real_zips_are_read_whole():
    path = DATA / "brain-mri.zip"
    if not path.is_file():
        pytest.skip("the brain MRI pictures are not here")
    store = open_store(path)
    files = store.files()
    assert (len(files.names), files.notes, store.name) == (1311, (), "brain-mri")
    assert all(store.read(name)[:2] == b"\xff\xd8" for name in files.names[::10])
