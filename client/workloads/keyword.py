"""`keyword`: which of 10 words was said, as a smart speaker hears it. The voices are synthetic.

Data: espeak-ng says each word 8 times in each of 80 voices, at changing speed, pitch and loudness, with
background noise (`tools/build_keyword.py` makes the file that is shipped; no person was recorded). One
partition per voice: 64 voices train, every fifth is the test. An example is a log-mel spectrogram of one
second: a microphone's samples become one on the device. Each is joined by one copy that is moved by up to
two bands of frequency, since no two throats are alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from client.workload import Examples, Workload
from scheduler.errors import BadFile

from .files import shipped

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
BANDS = 20  # of frequency, evenly spaced in mel
FRAMES = 32  # in one second
LEVELS = 32  # of loudness
VOICES = 80
TEST_VOICES = tuple(range(4, VOICES, 5))
TRAIN_VOICES = tuple(voice for voice in range(VOICES) if voice not in TEST_VOICES)
MOST_BANDS = 2
MEAN, SPREAD = 0.5, 0.25  # of loudness, about, as shares of the loudest


def model() -> torch.nn.Module:
    """2-D convolutional net, [n, 1, 20, 32] to [n, 10]; a word may be anywhere in the second."""
    layers: list[torch.nn.Module] = []
    channels = 1
    for width, stride in ((8, 2), (16, 2), (32, 1)):
        layers += [
            torch.nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
            torch.nn.GroupNorm(4, width),
            torch.nn.ReLU(),
        ]
        channels = width
    layers += [torch.nn.AvgPool2d((5, 1)), torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(channels, len(WORDS)))


def optimizer(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def data(partition: int) -> Examples:
    """Words of one voice, each with its moved copy."""
    loudness, words = _of_voices((TRAIN_VOICES[partition],))
    moved = _moved(loudness, np.random.default_rng((partition, 1)))
    return _examples(np.concatenate((loudness, moved)), np.concatenate((words, words)))


def test() -> Examples:
    """Words of the voices that no partition has."""
    return _examples(*_of_voices(TEST_VOICES))


def _examples(loudness: NDArray[np.float32], words: NDArray[np.int64]) -> Examples:
    return Examples(
        x=torch.from_numpy((loudness - MEAN) / SPREAD).unsqueeze(1), y=torch.from_numpy(words)
    )


def _of_voices(voices: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pictures [n, BANDS, FRAMES] from 0 to 1, and the words [n]."""
    pictures, words, speaker = _takes()
    chosen = np.isin(speaker, voices)
    return pictures[chosen].astype(np.float32) / np.float32(LEVELS - 1), words[chosen].astype(
        np.int64
    )


def _moved(loudness: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Each picture moved up or down by up to MOST_BANDS, as if a larger or smaller throat had spoken."""
    padded = np.pad(loudness, ((0, 0), (MOST_BANDS, MOST_BANDS), (0, 0)))
    starts = generator.integers(0, 2 * MOST_BANDS + 1, size=(len(loudness), 1))
    moved: NDArray[np.float32] = padded[
        np.arange(len(loudness))[:, None], starts + np.arange(BANDS)
    ]
    return moved


@lru_cache(maxsize=1)
def _takes() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Pictures [n, BANDS, FRAMES], words [n] and voices [n]. Raises BadFile unless the data is these."""
    try:
        arrays = load(shipped("keyword.safetensors"))
        found = arrays["x"], arrays["y"], arrays["speaker"]
    except (SafetensorError, KeyError) as error:
        raise BadFile(f"the data of keyword is damaged: {error}; install fedpoet again") from error
    shapes = [array.shape for array in found]
    count = len(found[0])
    if shapes != [(count, BANDS, FRAMES), (count,), (count,)]:
        raise BadFile(f"the data of keyword has shapes {shapes}; install fedpoet again")
    return found


WORKLOAD = Workload(
    name="keyword",
    model=model,
    loss=torch.nn.functional.cross_entropy,
    optimizer=optimizer,
    partitions=len(TRAIN_VOICES),
    data=data,
    test=test,
    batch_size=8,
    local_epochs=2,
)
