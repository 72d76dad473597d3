"""The coordinator's tests use the service's keys."""

from tests.server.service.conftest import keys

__all__ = ["keys"]
