from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.keyring import Keyring
from server.service.host import ServiceHost
from tests.server.service.peers import hosted, make_keyring


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return make_keyring(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def host(tmp_path, keys) -> Iterator[ServiceHost]:
    with hosted(tmp_path / "store", keys) as host:
        yield host
