from __future__ import annotations

import pytest

from scheduler.errors import BadFile, BadInput, UnknownName
from simulations.fleet import Link, load_fleet

KIND = """
[kinds.board]
device = "nrf52840"
ram_bytes = 64_000
down_bytes_per_s = 1000
up_bytes_per_s = 500
latency_s = 0.5
radio_w = 0.01
source = "measured"
"""


def write(tmp_path, text):
    file = tmp_path / "fleet.toml"
    file.write_text(text)
    return str(file)


def test_the_default_fleet_has_three_very_different_kinds_and_a_device_per_partition():
    fleet = load_fleet("default", 8)
    assert len(fleet.devices) == 8
    assert sorted(d.partition for d in fleet.devices) == list(range(8))
    assert len({d.node for d in fleet.devices}) == 8
    rates = sorted(kind.profile.flops_per_s for kind in fleet.kinds)
    assert len(rates) == 3
    assert rates[-1] > 1000 * rates[0]
    assert all(kind.ram_bytes <= kind.profile.trainable_bytes for kind in fleet.kinds)
    assert all(kind.source for kind in fleet.kinds)


def test_ones_own_fleet_is_a_file(tmp_path):
    fleet = load_fleet(write(tmp_path, 'devices = ["board", "board"]' + KIND), 3)
    assert fleet.name == "fleet"
    assert [d.kind.name for d in fleet.devices] == ["board", "board"]
    assert fleet.devices[0].kind.ram_bytes == 64_000


def test_a_profile_of_ones_own_is_found_beside_the_fleet(tmp_path):
    from importlib import resources

    own = resources.files("scheduler").joinpath("devices/nrf52840.toml").read_text()
    (tmp_path / "own.toml").write_text(own)
    text = ('devices = ["board"]' + KIND).replace('"nrf52840"', '"own.toml"')
    assert load_fleet(write(tmp_path, text), 1).devices[0].kind.profile.ram_bytes == 262144


def test_links_take_their_latency_and_the_bytes():
    link = Link(down_bytes_per_s=1000, up_bytes_per_s=500, latency_s=0.5, watts=1)
    assert link.down_s(2000) == 2.5
    assert link.up_s(2000) == 4.5


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("devices = [", BadFile, "is not TOML"),
        ("devices = []" + KIND, BadFile, "devices: List should have at least 1 item"),
        ('devices = ["spoon"]' + KIND, BadFile, "devices names 'spoon'; kinds are board"),
        ('devices = ["board"]\nx = 1' + KIND, BadFile, "x: Extra inputs are not permitted"),
        ('devices = ["board"]' + KIND.replace("64_000", "-1"), BadFile, "kinds.board.ram_bytes: "),
        (
            'devices = ["board"]' + KIND.replace("64_000", "true"),
            BadFile,
            "kinds.board.ram_bytes: ",
        ),
        ('devices = ["board"]' + KIND.replace("64_000", '"5"'), BadFile, "kinds.board.ram_bytes: "),
        ('devices = ["board"]' + KIND.replace("64_000", "1" * 20), BadFile, "board.ram_bytes: "),
        ('devices = ["board"]' + KIND.replace("1000", "inf"), BadFile, "down_bytes_per_s: "),
        ('devices = ["board"]' + KIND.replace("0.5", "nan"), BadFile, "latency_s: "),
        ('devices = ["board"]' + KIND.replace("0.5", "1e308"), BadFile, "latency_s: "),
        ('devices = ["../x"]' + KIND.replace("board", '"../x"'), BadFile, "kinds.../x"),
        (
            'devices = ["board"]' + KIND.replace("nrf52840", "nrf"),
            UnknownName,
            "named 'nrf'; known:",
        ),
        (f"devices = {['board'] * 4}" + KIND, BadInput, "4 devices, but .* has 3 partitions"),
    ],
)
def test_what_is_not_a_fleet_is_said_in_one_line(tmp_path, text, error, message):
    with pytest.raises(error, match=message) as caught:
        load_fleet(write(tmp_path, text), 3)
    assert "\n" not in str(caught.value)


def test_a_missing_fleet_file_is_named(tmp_path):
    with pytest.raises(BadFile, match=r"nothing\.toml cannot be read"):
        load_fleet(str(tmp_path / "nothing.toml"), 3)
