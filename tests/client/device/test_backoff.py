from __future__ import annotations

from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.device.backoff import pauses


@given(seed=st.integers())
def test_pauses_double_up_to_the_most_and_differ_by_chance(seed):
    found = list(islice(pauses(Random(seed), first_s=1.0, most_s=60.0), 20))
    for position, pause_s in enumerate(found):
        longest_s = min(60.0, 2.0**position)
        assert longest_s / 2 <= pause_s <= longest_s


def test_devices_do_not_come_back_all_at_once():
    sixth = [next(islice(pauses(Random(seed)), 6, None)) for seed in range(1000)]
    assert max(sixth) - min(sixth) == pytest.approx(16, rel=0.05)
    assert len(set(sixth)) == 1000
