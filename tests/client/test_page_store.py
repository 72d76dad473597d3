"""Pages come back as they were written, or not at all."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.page_store import PIECE_BYTES, PageStore, unused_path
from scheduler.errors import DamagedPage, PageStoreError, PageStoreFull

SECRET = b"the wearer's heart rate is 72. " * 40


@pytest.fixture
def store(tmp_path):
    with PageStore(tmp_path / "pages", block_bytes=512) as opened:
        yield opened


def write(store, tensor, data):
    return store.write(tensor, memoryview(data))


def read(store, page):
    into = bytearray(page.size_bytes)
    store.read(page, memoryview(into))
    return bytes(into)


def content(store) -> bytes:
    """What lies in the store's file, which has no name any more."""
    return os.pread(store._file, os.fstat(store._file).st_size, 0)


@pytest.mark.parametrize("size", [1, 511, 512, 513, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_pages_come_back(store, size):
    data = os.urandom(size)
    others = [write(store, 1, os.urandom(700)) for _ in range(3)]
    page = write(store, 2, data)
    store.drop(others[1])
    write(store, 3, os.urandom(5000))
    assert read(store, page) == data
    assert read(store, page) == data


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3000)), min_size=1, max_size=30))
def test_any_order_of_writes_and_drops(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("store")
    held = {}
    with PageStore(folder / "pages", block_bytes=256) as store:
        for tensor, size in changes:
            if tensor in held:
                store.drop(held.pop(tensor)[0])
            data = os.urandom(size)
            held[tensor] = (write(store, tensor, data), data)
            assert store.used_bytes == sum(-(-len(d) // 256) * 256 for _, d in held.values())
            assert all(read(store, page) == data for page, data in held.values())


def test_space_of_dropped_pages_is_used_again(store):
    for _ in range(50):
        store.drop(write(store, 1, bytes(5000)))
    assert store.used_bytes == 0
    assert len(content(store)) == 5120


def test_nothing_readable_is_on_storage(store):
    write(store, 1, SECRET)
    write(store, 1, SECRET)
    stored = content(store)
    assert len(stored) >= 2 * len(SECRET)
    assert b"heart" not in stored
    # The same content twice gives nothing in common: no block repeats.
    blocks = [stored[i : i + 16] for i in range(0, len(stored), 16)]
    full = [b for b in blocks if any(b)]
    assert len(set(full)) == len(full)


def test_file_has_no_name_while_in_use_and_is_for_the_owner_only(tmp_path):
    with PageStore(tmp_path / "pages") as store:
        assert list(tmp_path.iterdir()) == []
        assert stat.S_IMODE(os.fstat(store._file).st_mode) == 0o600
    assert list(tmp_path.iterdir()) == []


def test_where_an_open_file_keeps_its_name_it_goes_on_close(tmp_path, monkeypatch):
    unlink = Path.unlink

    def refuse(self, **options):
        monkeypatch.setattr(Path, "unlink", unlink)
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.delattr(os, "O_TMPFILE")  # as where no file can be made without a name
    with PageStore(tmp_path / "pages"):
        assert [p.name for p in tmp_path.iterdir()] == ["pages"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", [0, 600, 1199, 1200, 1535])
def test_a_flipped_bit_is_an_error(store, where):
    page = write(store, 1, os.urandom(1200))
    byte = content(store)[where]
    os.pwrite(store._file, bytes([byte ^ 4]), where)
    if where < 1200:
        with pytest.raises(DamagedPage, match="not what was written"):
            read(store, page)
    else:
        read(store, page)  # padding of the last block, part of no page


def test_a_cut_file_is_an_error(store):
    page = write(store, 1, os.urandom(3000))
    os.ftruncate(store._file, 2900)
    with pytest.raises(DamagedPage, match="cut off"):
        read(store, page)


def test_swapped_blocks_are_an_error(store):
    one, other = (write(store, 1, os.urandom(512)) for _ in range(2))
    stored = content(store)
    os.pwrite(store._file, stored[512:] + stored[:512], 0)
    for page in (one, other):
        with pytest.raises(DamagedPage):
            read(store, page)


def test_an_older_version_in_its_place_is_an_error(store):
    old = write(store, 1, b"old" * 100)
    stored = content(store)
    store.drop(old)
    new = write(store, 1, b"new" * 100)
    assert old.runs == new.runs
    os.pwrite(store._file, stored, 0)
    with pytest.raises(DamagedPage):
        read(store, new)


def test_capacity_is_a_limit_in_whole_blocks(tmp_path):
    with PageStore(tmp_path / "pages", capacity_bytes=4096, block_bytes=512) as store:
        first = write(store, 1, bytes(3000))
        with pytest.raises(PageStoreFull, match="1025 bytes"):
            write(store, 2, bytes(1025))
        second = write(store, 2, b"x" * 1024)
        assert store.used_bytes == 4096
        assert read(store, first) == bytes(3000)
        assert read(store, second) == b"x" * 1024


@contextmanager
def file_size_limit(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_space_on_the_real_storage(store):
    page = write(store, 1, b"y" * 3000)
    used = store.used_bytes
    with file_size_limit(100_000):
        with pytest.raises(PageStoreFull, match="no space left"):
            write(store, 2, bytes(200_000))
        assert store.used_bytes == used
        later = write(store, 3, b"z" * 5000)
    assert read(store, page) == b"y" * 3000
    assert read(store, later) == b"z" * 5000


def test_a_store_that_cannot_be_made(tmp_path):
    (tmp_path / "pages").write_text("somebody's file")
    for path in (tmp_path / "pages", tmp_path / "missing" / "pages"):
        with pytest.raises(PageStoreError, match="cannot be made"):
            PageStore(path)
    assert (tmp_path / "pages").read_text() == "somebody's file"


def test_its_own_buffer_is_one_piece(tmp_path):
    with PageStore(tmp_path / "pages", block_bytes=4096) as store:
        write(store, 1, bytes(10 * PIECE_BYTES))
        assert len(store._buffer) == PIECE_BYTES + 16


def test_two_stores_at_one_path_do_not_meet(tmp_path):
    with PageStore(tmp_path / "pages") as one, PageStore(tmp_path / "pages") as other:
        first, second = write(one, 1, b"one" * 500), write(other, 1, b"other" * 500)
        assert read(one, first) == b"one" * 500
        assert read(other, second) == b"other" * 500
        with pytest.raises(DamagedPage):
            read(other, first)


def test_storage_that_cannot_be_read(store):
    """A read error of the system, not of ours: the file is there, but not open for reading."""
    page = write(store, 1, os.urandom(600))
    blind = os.open("/dev/null", os.O_WRONLY)
    os.dup2(blind, store._file)
    os.close(blind)
    with pytest.raises(PageStoreError, match="cannot be read"):
        read(store, page)


def test_an_unused_path_is_where_it_is_asked_for(tmp_path):
    paths = {unused_path(tmp_path) for _ in range(100)}
    assert len(paths) == 100
    assert {p.parent for p in paths} == {tmp_path}
    assert not any(p.exists() for p in paths)


def test_a_full_filesystem(tmp_path):
    """A real one of a megabyte, where this process may mount it."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    may_mount = shutil.which("mount") and subprocess.run(mount, check=False, capture_output=True)
    if not may_mount or may_mount.returncode:
        pytest.skip("mounting a file system takes privileges that this process has not")
    try:
        with PageStore(small / "pages") as store:
            kept = write(store, 1, b"y" * 600_000)
            with pytest.raises(PageStoreFull, match="no space left"):
                write(store, 2, bytes(600_000))
            assert read(store, kept) == b"y" * 600_000
            store.drop(kept)
            later = write(store, 3, b"z" * 900_000)
            assert read(store, later) == b"z" * 900_000
    finally:
        subprocess.run(["umount", str(small)], check=True)
