from __future__ import annotations

import pytest

from scheduler.view.text import human_bytes, human_j, human_s, plural, shortened


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (human_bytes(0), "0 B"),
        (human_bytes(999), "999 B"),
        (human_bytes(1000), "1 kB"),
        (human_bytes(65_280), "65.3 kB"),
        (human_bytes(199_292), "199 kB"),
        (human_bytes(999_600), "1 MB"),
        (human_bytes(5e12), "5000 GB"),
        (human_s(0.0), "0 s"),
        (human_s(0.0015), "1.5 ms"),
        (human_s(0.000_015_94), "15.9 µs"),
        (human_s(0.000_999_7), "1 ms"),
        (human_s(2.134), "2.13 s"),
        (human_s(245), "4 min 05 s"),
        (human_s(5999), "1 h 39 min"),
        (human_s(47.5 * 3600), "47 h 30 min"),
        (human_s(75 * 3600), "3 d 03 h"),
        (human_j(0.0), "0 J"),
        (human_j(0.0392), "39.2 mJ"),
        (human_j(3.2e-5), "32 µJ"),
        (human_j(4.5), "4.5 J"),
        (human_j(12_345), "12.3 kJ"),
        (human_j(999_600), "1 MJ"),
        (human_j(5e12), "5000 GJ"),
        (plural(1, "device"), "1 device"),
        (plural(3, "device"), "3 devices"),
        (shortened("convolution", 11), "convolution"),
        (shortened("convolution_backward", 11), "convolutio…"),
    ],
)
def test_numbers_read_well(text, expected):
    assert text == expected
