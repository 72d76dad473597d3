"""Colours that stand together can be told apart, by colour-blind readers too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scheduler.view.palette import DARK, LIGHT, TERMINAL, TOGETHER, TOGETHER_ON_PAGES

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
SEEN_BY = {
    "everyone": np.eye(3),
    "deuteranopes": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanopes": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "tritanopes": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def lab(colour: str, seen_by: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(SEEN_BY[seen_by] @ linear, 0, 1) / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen_by", SEEN_BY)
@pytest.mark.parametrize(
    "colours",
    [LIGHT, DARK, {**TERMINAL, "paper": "#ffffff"}, {**TERMINAL, "paper": "#1b1b1b"}],
    ids=["light", "dark", "light terminal", "dark terminal"],
)
def test_colours_of_one_picture_are_far_apart(colours: dict[str, str], seen_by: str) -> None:
    on_page = colours.keys() == LIGHT.keys()
    for group in (*TOGETHER, *(TOGETHER_ON_PAGES if on_page else ())):
        for one, other in itertools.combinations([name for name in group if name in colours], 2):
            difference = np.linalg.norm(lab(colours[one], seen_by) - lab(colours[other], seen_by))
            assert difference > 20, (one, other)


def test_light_and_dark_name_the_same_colours() -> None:
    assert LIGHT.keys() == DARK.keys()
