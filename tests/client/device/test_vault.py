from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.device.vault import CHUNK_BYTES, Vault
from scheduler.errors import DamagedState, StateError

LONG = os.urandom(2 * CHUNK_BYTES + 17)


@pytest.mark.parametrize("data", [b"", b"x", LONG[:CHUNK_BYTES], LONG])
def test_what_is_kept_comes_back_in_another_process(tmp_path, data):
    Vault(tmp_path).put("record", data)
    again = Vault(tmp_path)
    assert again.get("record") == data
    assert again.names() == ("record",)
    assert "record" in again
    again.remove("record")
    again.remove("record")
    assert again.get("record") is None


def test_nobody_else_can_read_it(tmp_path):
    folder = tmp_path / "state"
    Vault(folder).put("record", LONG)
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert LONG[:32] not in path.read_bytes()
    other = tmp_path / "other"
    Vault(other)
    (folder / "record.sealed").rename(other / "record.sealed")
    with pytest.raises(DamagedState):
        Vault(other).get("record")


def test_the_same_content_is_never_stored_the_same(tmp_path):
    vault = Vault(tmp_path)
    vault.put("record", b"x" * 100)
    first = (tmp_path / "record.sealed").read_bytes()
    vault.put("record", b"x" * 100)
    assert (tmp_path / "record.sealed").read_bytes() != first


@settings(max_examples=30)
@given(place=st.integers(0, len(LONG)), bit=st.integers(0, 7))
def test_no_changed_bit_goes_unseen(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("vault")
    vault = Vault(folder)
    vault.put("record", LONG)
    path = folder / "record.sealed"
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(DamagedState, match="record"):
        vault.get("record")


def test_records_and_chunks_cannot_change_places(tmp_path):
    vault = Vault(tmp_path)
    vault.put("one", LONG)
    (tmp_path / "two.sealed").write_bytes((tmp_path / "one.sealed").read_bytes())
    with pytest.raises(DamagedState):
        vault.get("two")
    sealed = (tmp_path / "one.sealed").read_bytes()
    size = CHUNK_BYTES + 28
    (tmp_path / "one.sealed").write_bytes(sealed[size : 2 * size] + sealed[:size])
    with pytest.raises(DamagedState):
        vault.get("one")


@settings(max_examples=30)
@given(cut=st.integers(0, CHUNK_BYTES + 28))
def test_a_record_that_grows_goes_on_after_its_whole_chunks(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("vault")
    vault = Vault(folder)
    for start in range(0, len(LONG), CHUNK_BYTES):
        vault.append("record", LONG[start : start + CHUNK_BYTES], start)
    vault.sync("record")
    assert vault.get("record") == LONG
    path = folder / "record.sealed"
    os.truncate(path, path.stat().st_size - cut)  # what a process left that was killed
    done = vault.whole_bytes("record")
    assert done % CHUNK_BYTES == 0
    for start in range(done, len(LONG), CHUNK_BYTES):
        vault.append("record", LONG[start : start + CHUNK_BYTES], start)
    assert vault.get("record") == LONG
    assert b"".join(vault.chunks("record", CHUNK_BYTES)) == LONG[CHUNK_BYTES:]


@pytest.mark.parametrize(("at", "size"), [(1, 1), (2 * CHUNK_BYTES, 1), (0, CHUNK_BYTES + 1)])
def test_a_record_grows_at_its_end_only(tmp_path, at, size):
    vault = Vault(tmp_path)
    vault.append("record", LONG[:CHUNK_BYTES], 0)
    with pytest.raises(ValueError, match="no next chunk"):
        vault.append("record", bytes(size), at)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    vault = Vault(tmp_path)
    vault.put("record", b"before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left"):
        vault.put("record", b"after")
    monkeypatch.undo()
    assert vault.get("record") == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["record.sealed", "secret"]


def test_what_killed_processes_left_is_tidied(tmp_path):
    vault = Vault(tmp_path)
    vault.put("record", b"kept")
    (tmp_path / ".record.sealed.0123").write_bytes(b"half")
    vault.tidy()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["record.sealed", "secret"]


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    Vault(tmp_path)
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(StateError, match="chmod 600"):
        Vault(tmp_path)


def test_a_secret_of_another_size_is_refused(tmp_path):
    Vault(tmp_path)
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(DamagedState, match="5 bytes"):
        Vault(tmp_path)


def test_processes_that_begin_at_once_share_one_secret(tmp_path):
    vaults: list[Vault] = []
    threads = [threading.Thread(target=lambda: vaults.append(Vault(tmp_path))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    vaults[0].put("record", b"shared")
    assert [vault.get("record") for vault in vaults] == [b"shared"] * 16


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="file"):
        Vault(tmp_path / "file")
