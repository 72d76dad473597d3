from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.partition import dirichlet, power_law, redivided
from client.workload import Examples, load_workload
from scheduler.errors import BadInput

SEEDS = st.integers(0, 2**32 - 1)


def require_each_once(parts, count, least):
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert all(len(part) >= least for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)


@given(
    labels=st.lists(st.integers(-3, 5), min_size=1, max_size=200),
    partitions=st.integers(1, 30),
    alpha=st.floats(1e-3, 1e6),
    share=st.floats(0, 1),
    seed=SEEDS,
)
def test_dirichlet_deals_every_example_once(labels, partitions, alpha, share, seed):
    least = int(share * (len(labels) // partitions))
    first, again = (
        dirichlet(
            np.array(labels),
            partitions,
            alpha=alpha,
            generator=np.random.default_rng(seed),
            least=least,
        )
        for _ in range(2)
    )
    assert len(first) == partitions
    require_each_once(first, len(labels), least)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@given(
    count=st.integers(1, 300),
    partitions=st.integers(1, 30),
    exponent=st.floats(0, 10),
    share=st.floats(0, 1),
    seed=SEEDS,
)
def test_power_law_deals_every_example_once_in_sizes_that_fall(
    count, partitions, exponent, share, seed
):
    least = int(share * (count // partitions))
    parts = power_law(
        count, partitions, exponent=exponent, generator=np.random.default_rng(seed), least=least
    )
    assert len(parts) == partitions
    require_each_once(parts, count, least)
    sizes = np.sort([len(part) for part in parts])[::-1]
    shares = np.arange(1, partitions + 1) ** -exponent
    expected = least + shares / shares.sum() * (count - least * partitions)
    assert np.abs(sizes - expected).max() <= 1


def class_shares(parts, labels):
    """Share of the most common class, averaged over the partitions."""
    return np.mean([np.bincount(labels[part]).max() / len(part) for part in parts])


def test_a_smaller_alpha_gives_partitions_of_fewer_classes():
    labels = np.arange(4000) % 10
    mixes = [
        class_shares(dirichlet(labels, 20, alpha=a, generator=np.random.default_rng(1)), labels)
        for a in (0.01, 0.1, 1, 10, 1e4)
    ]
    assert mixes == sorted(mixes, reverse=True)
    assert mixes[0] > 0.8
    assert mixes[-1] < 0.11


def test_a_single_class_can_be_dealt():
    parts = dirichlet(np.zeros(50, int), 5, alpha=0.01, generator=np.random.default_rng(0), least=8)
    require_each_once(parts, 50, 8)


@pytest.mark.parametrize("form", ["dirichlet", "power-law"])
def test_a_workload_divided_anew_keeps_its_examples_and_its_test(form):
    digits = load_workload("digits")
    anew = redivided(
        digits, form, alpha=0.3, partitions=40, generator=np.random.default_rng(5), least=5
    )

    def rows(workload):
        parts = [workload.examples(n) for n in range(workload.partitions)]
        return sorted(
            (*x, y) for p in parts for x, y in zip(p.x.tolist(), p.y.tolist(), strict=True)
        )

    assert anew.partitions == 40
    assert rows(anew) == rows(digits)
    assert torch.equal(anew.test().x, digits.test().x)
    with pytest.raises(BadInput, match="partitions 0 to 39, not 40"):
        anew.examples(40)


def test_unless_told_every_partition_has_a_whole_batch():
    digits = load_workload("digits")
    anew = redivided(
        digits, "dirichlet", alpha=0.01, partitions=80, generator=np.random.default_rng(0)
    )
    assert all(len(anew.training_examples(n)) >= digits.batch_size for n in range(80))
    with pytest.raises(
        BadInput, match="1,437 examples are too few for 90 partitions of at least 16; ask for 89"
    ):
        redivided(digits, "power-law", alpha=1, partitions=90, generator=np.random.default_rng(0))


def test_what_cannot_be_dealt_is_said():
    generator = np.random.default_rng(0)
    with pytest.raises(BadInput, match="must be more than 0, at most 1e6, not 0"):
        dirichlet(np.zeros(3, int), 2, alpha=0, generator=generator)
    with pytest.raises(BadInput, match="must be more than 0, at most 1e6, not nan"):
        dirichlet(np.zeros(3, int), 2, alpha=float("nan"), generator=generator)
    with pytest.raises(BadInput, match="must be from 0 to 10, not -1"):
        power_law(3, 2, exponent=-1, generator=generator)
    with pytest.raises(BadInput, match="needs 1 partition or more"):
        power_law(3, 0, exponent=1, generator=generator)
    numbers = Examples(x=torch.zeros(30, 2), y=torch.zeros(30))
    real = dataclasses.replace(load_workload("digits"), name="real", data=lambda _: numbers)
    with pytest.raises(BadInput, match="'real' has no class number per example"):
        redivided(real, "dirichlet", alpha=1, partitions=3, generator=generator)
    assert redivided(real, "power-law", alpha=1, partitions=3, generator=generator).partitions == 3
