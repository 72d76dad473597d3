"""Renders the words of the `keyword` workload and writes client/workloads/data/keyword.safetensors.xz.

    python tools/build_keyword.py [OUT]

espeak-ng (GPL-3.0; from the PyPI package `espeakng-loader`) speaks ten words in many voices. Each take has
its own speed, pitch, loudness, place within the second and background noise, all drawn from one seed. What
is kept is a picture of the sound, its log-mel spectrogram in 32 levels: no recording of a person is in it.
The workload ships this file rather than rendering when it loads: it is small, it is the same bytes on every
machine, and nobody who trains needs the synthesizer.
"""

from __future__ import annotations

import ctypes
import lzma
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import espeakng_loader
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from client.workloads.keyword import BANDS, FRAMES, LEVELS, WORDS

OUT = Path(__file__).parents[1] / "client" / "workloads" / "data" / "keyword.safetensors.xz"
SEED = 7
TAKES = 8  # of each word by each speaker
RATE_HZ = 22050  # espeak-ng's own
WINDOW = 1024  # samples of a frame; the frames of one second overlap
LOWEST_HZ, HIGHEST_HZ = 60.0, 8000.0
RANGE_DB = 70.0  # below the loudest point of a take; what is fainter is the lowest level

ACCENTS = (
    "en-us",
    "en",  # British
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
)
# Variants that sound like people; robots and effects are left out.
_NAMES = (
    "Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael "
    "Mike Nguyen Reed RicishayMax Storm adam anika announcer antonio aunty belinda benjamin boris caleb "
    "david ed edward edward2 f1 f2 f3 f4 f5 grandma grandpa gustave ian iven iven2 iven3 john kaukovalta "
    "klatt klatt2 klatt3 klatt4 linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel mike2 norbert "
    "pablo paul pedro quincy rob robert sandro shelby steph steph2 travis victor zac"
)
VARIANTS = tuple(_NAMES.split())

# Of espeak-ng/speak_lib.h.
_SYNCHRONOUS, _UTF8 = 2, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)

Signal = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a word is said: words per minute, pitch and its range in espeak-ng's 0 to 100."""

    words_per_minute: int
    pitch: int
    pitch_range: int


class Synthesizer:
    """espeak-ng in this process.

    Each has a copy of the library to itself: it remembers, beyond a new start, what it said before, and
    sounds a little different then.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
            self._library = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), own))
        folder = espeakng_loader.get_data_path().encode()
        if self._library.espeak_Initialize(_SYNCHRONOUS, 0, folder, 0) != RATE_HZ:
            raise SystemExit("espeak-ng does not start, or has another sample rate")
        self._pieces: list[NDArray[np.int16]] = []
        self._callback = _CALLBACK(self._take)  # kept: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, word: str, voice: str, manner: Manner) -> Signal:
        """A spoken word at RATE_HZ, from its first to its last sample that is not silent."""
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(SEED))  # breathy voices hold noise
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SystemExit(f"espeak-ng has no voice {voice}")
        for parameter, value in (
            (_RATE, manner.words_per_minute),
            (_VOLUME, 100),
            (_PITCH, manner.pitch),
            (_RANGE, manner.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._pieces.clear()
        text = word.encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
        signal = np.concatenate(self._pieces).astype(np.float64)
        heard = np.flatnonzero(np.abs(signal) > 0.01 * np.abs(signal).max())
        return signal[heard[0] : heard[-1] + 1]

    def _take(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _: int) -> int:
        if samples and count:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def speakers() -> tuple[str, ...]:
    """Voices of espeak-ng, one a speaker: every variant with one accent, in turns."""
    return tuple(f"{ACCENTS[n % len(ACCENTS)]}+{variant}" for n, variant in enumerate(VARIANTS))


def takes(number: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(number of the word, its picture) of one speaker, who has a speed and a pitch of their own."""
    synthesizer, voice = Synthesizer(), speakers()[number]
    generator = np.random.default_rng((SEED, number))
    speed, pitch = generator.uniform(130, 210), generator.uniform(25, 75)
    for label, word in enumerate(WORDS):
        for _ in range(TAKES):
            manner = Manner(
                words_per_minute=int(speed * generator.uniform(0.85, 1.15)),
                pitch=int(np.clip(pitch + generator.normal(scale=6), 0, 99)),
                pitch_range=int(generator.uniform(30, 70)),
            )
            yield label, picture(_in_a_room(synthesizer.say(word, voice, manner), generator))


def _in_a_room(word: Signal, generator: np.random.Generator) -> Signal:
    """One second with the word somewhere in it and pinkish noise 15 to 35 dB below it."""
    word = word[: RATE_HZ - 1]
    start = int(generator.integers(0, RATE_HZ - len(word)))
    spectrum = np.fft.rfft(generator.normal(size=RATE_HZ))
    noise = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 20.0), RATE_HZ)
    below_db = generator.uniform(15, 35)
    noise *= np.sqrt(np.mean(word**2) / np.mean(noise**2)) * 10 ** (-below_db / 20)
    noise[start : start + len(word)] += word
    return noise


def picture(second: Signal) -> NDArray[np.uint8]:
    """Log-mel spectrogram [BANDS, FRAMES] of one second, in LEVELS steps below its loudest point."""
    starts = np.linspace(0, len(second) - WINDOW, FRAMES).astype(int)
    frames = np.stack([second[s : s + WINDOW] for s in starts]) * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2 @ _mel().T
    decibels = 10 * np.log10(power + 1e-9)
    share = 1 + (decibels - decibels.max()) / RANGE_DB
    return np.round(np.clip(share, 0, 1) * (LEVELS - 1)).astype(np.uint8).T


def _mel() -> Signal:
    """Triangular filters [BANDS, frequencies], evenly spaced in mel."""
    mel = np.linspace(*(2595 * np.log10(1 + np.array((LOWEST_HZ, HIGHEST_HZ)) / 700)), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequency = np.fft.rfftfreq(WINDOW, 1 / RATE_HZ)
    rising = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


def build() -> dict[str, NDArray[np.uint8]]:
    """All takes: `x` [n, BANDS, FRAMES], `y` [n] word numbers, `speaker` [n] speaker numbers."""
    x, y, speaker = [], [], []
    for number in range(len(speakers())):
        for label, take in takes(number):
            x.append(take)
            y.append(label)
            speaker.append(number)
    return {
        "x": np.ascontiguousarray(np.stack(x)),  # safetensors takes memory as it lies
        "y": np.array(y, dtype=np.uint8),
        "speaker": np.array(speaker, dtype=np.uint8),
    }


def main() -> None:
    """Write the file."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    packed = lzma.compress(save(build()), preset=9 | lzma.PRESET_EXTREME)
    out.write_bytes(packed)
    print(f"{out}: {len(packed):,} bytes, {len(speakers())} speakers")


if __name__ == "__main__":
    main()
