"""A share of the bad inputs of `make fuzz`, with other seeds."""

from __future__ import annotations

from benchmarks.fuzz_codec import fuzz_codec
from benchmarks.fuzz_service import fuzz_connections, fuzz_service
from server.service.refusals import Reason


def test_the_codec_takes_nothing_bad():
    ends = fuzz_codec(4000, seed=7)
    assert ends.total() == 4000
    # The inputs reach what they are meant for: most are bad, and some of them are just in order.
    refused = sum(n for end, n in ends.items() if not end.endswith("in order"))
    assert 3000 < refused < 4000


def test_the_service_refuses_and_others_go_on():
    ends = fuzz_service(800, seed=7)
    assert ends["rounds of the other device"] > 0
    counted = {r for r in Reason if ends[f"counted: {r}"]}
    assert {Reason.MALFORMED, Reason.OUT_OF_ORDER, Reason.NO_SUCH_TASK} <= counted
    assert Reason.FAULT not in counted


def test_noise_on_connections_harms_nobody():
    ends = fuzz_connections(60, seed=7)
    assert ends.keys() == {"plain", "in TLS", "in HTTP/2"}
