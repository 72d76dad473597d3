from __future__ import annotations

import pytest
import torch

from tests.client.models import Convolutional, Mlp
from tests.client.twins import Twin


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


@pytest.fixture(scope="package")
def mlp(_one_thread):
    return Twin.of(Mlp, adam)


@pytest.fixture(scope="package")
def convolutional(_one_thread):
    return Twin.of(Convolutional, adam)
