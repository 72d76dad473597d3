"""Binary plan files: what is written is read back, and damage is found."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.codec import decode_plan, encode_plan
from protos.files import read_plan, write_plan
from scheduler import Problem, files, keep_all, page_all
from scheduler.errors import BadFile, BadInput
from tests.scheduler.problems import training_step
from tests.strategies import problems


@settings(max_examples=50)
@given(problem=problems())
def test_the_ending_of_the_name_chooses_the_form(
    problem: Problem, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    for plan in (keep_all(problem), page_all(problem)):
        for name in ("plan.json", "plan.pb"):
            write_plan(plan, folder / name)
            assert read_plan(folder / name) == plan
        assert files.read_plan(folder / "plan.json") == plan
        assert decode_plan((folder / "plan.pb").read_bytes()) == plan


def test_a_binary_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.pb").write_bytes(b"not a plan")
    with pytest.raises(BadFile):
        read_plan(tmp_path / "plan.pb")
    with pytest.raises(BadFile, match="cannot read"):
        read_plan(tmp_path / "absent.pb")


@settings(max_examples=300)
@given(position=st.integers(min_value=0), bit=st.integers(0, 7), cut=st.booleans())
def test_no_damage_to_a_binary_plan_goes_unnoticed(position: int, bit: int, cut: bool) -> None:
    plan = page_all(training_step())
    data = bytearray(encode_plan(plan))
    position %= len(data)
    if cut:
        del data[position:]
    else:
        data[position] ^= 1 << bit
    with contextlib.suppress(BadFile, BadInput):
        # A flip may fall on something that protobuf ignores.
        assert decode_plan(bytes(data)) == plan
