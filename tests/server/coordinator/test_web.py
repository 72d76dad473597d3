"""The coordinator's page, figures and metrics, over real HTTP, and the page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scheduler.errors import BadInput
from scheduler.view.text import human_bytes, human_j
from server.coordinator.journal import opened
from server.coordinator.watch import KindLine, Watch
from server.coordinator.web import build_web, serving
from server.rules import Rules
from tests.pages import assert_well_formed
from tests.server.coordinator.test_journal import journaled
from tests.server.grids import FunctionGrid
from tests.server.test_rounds import adds

HOSTS = ("127.0.0.1", "localhost")
KINDS = (
    KindLine(kind="pi <b>", enrolled=3, online=2, ready=1),
    KindLine(kind="phone", enrolled=5, online=4, ready=4),
)


@pytest.fixture
def watch(tmp_path):
    """Three rounds: one device that always answers, one that never can."""
    nodes = {
        1: adds(1, **{"energy-j": 2.5, "measured-peak-bytes": 1500.0}),
        2: lambda _: "Infeasible: the budget is 9 bytes",
    }
    with opened(tmp_path) as journal:
        scores = lambda number, _: {"loss": 1.0 / (number + 1), "accuracy": number / 4}  # noqa: E731
        journaled(journal, FunctionGrid(nodes), 3, evaluate=scores, rules=Rules())
        entries = journal.entries()
    made = Watch("watch", 5, entries[:-1], lambda: 100.0, lambda: KINDS)
    made.asking(3, 2)
    made.noted(entries[-1])
    return made


@pytest.fixture
def address(watch):
    with serving(build_web(watch.snapshot, HOSTS), "127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}"


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.read().decode(), answer.headers


def test_the_page_says_what_happened(address):
    page, headers = get(address)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    text = re.sub(r"<[^>]+>", " ", page)
    for said in (
        "3 of 5",
        "75.0%",
        human_j(7.5),
        "pi &lt;b&gt;",
        "Infeasible",
        "1 of 2",
        human_bytes(1500),
    ):
        assert said in text, said
    assert_well_formed(re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL))
    assert not re.search(r'(src|href)="(?!#)', page)
    live, _ = get(f"{address}/live")
    assert live in page


def test_figures_as_json_and_for_prometheus(address, watch):
    status = json.loads(get(f"{address}/status.json")[0])
    assert status["open_round"] == 4
    assert status["refusals"] == [["Infeasible", 3]]
    text, headers = get(f"{address}/metrics")
    assert headers["Content-Type"].startswith("text/plain")
    families = {f.name: f for f in text_string_to_metric_families(text)}
    assert families["fedpoet_updates"].samples[0].value == 3
    assert families["fedpoet_device_energy_joules"].samples[0].value == 7.5
    online = {
        s.labels["kind"]: s.value
        for s in families["fedpoet_devices"].samples
        if s.labels["state"] == "online"
    }
    assert online == {"pi <b>": 2, "phone": 4}
    assert get(f"{address}/healthz")[0] == "ok\n"


def refused(request) -> int:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    caught.value.close()
    return caught.value.code


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/live", "/status.json", "/metrics"])
def test_nothing_can_be_changed(address, method, path):
    request = urllib.request.Request(address + path, data=b"x", method=method)
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(request)


def test_a_page_from_elsewhere_cannot_read_it(address):
    headers = {"Host": "evil.example"}
    assert refused(urllib.request.Request(f"{address}/status.json", headers=headers)) == 400


def test_a_port_that_is_taken_is_told(address):
    port = int(address.rpartition(":")[2])
    web = build_web(lambda: None, HOSTS)
    with pytest.raises(BadInput, match="cannot listen"), serving(web, "127.0.0.1", port):
        pass


def test_before_the_first_round_and_after_the_last(watch):
    from server.coordinator.page import live_part

    empty = Watch("watch", 5, [], lambda: 0.0)
    assert "choosing devices" in live_part(empty.snapshot())
    empty.asking(1, 7)
    assert "Round 1: 7 devices asked" in live_part(empty.snapshot())
    watch.ended("all rounds done")
    assert "The run is over: all rounds done" in live_part(watch.snapshot())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_in_a_real_browser_it_refreshes_itself(address, watch, tmp_path):
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--enable-logging=stderr",
        "--virtual-time-budget=9000",
        "--dump-dom",
        address,
    ]
    watch.ended("seen by a browser")
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "The run is over: seen by a browser" in shown.stdout
    assert shown.stdout.count("<svg") == 1
    assert "CONSOLE" not in shown.stderr, shown.stderr
