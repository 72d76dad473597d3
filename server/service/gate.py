"""Who calls, and whether they may: certificates, revocation, how often, and over how many connections."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509

from protos.trust import Role, holder_of, require_valid
from scheduler.errors import Untrusted

from .limits import Allowance, Limits
from .refusals import Reason, Refusal
from .roster import Roster

CERTIFICATE = "x509_pem_cert"  # gRPC's name for what the peer showed in the handshake
REMEMBERED = 10_000  # certificates and allowances kept in memory

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The holder of a certificate that is valid now. `device_id` is set for devices."""

    role: Role
    name: str
    device_id: int | None

    def __str__(self) -> str:
        return f"{self.role}:{self.name}"


class Gate:
    """Lets calls of known callers pass. Used by one thread, that of the service's event loop."""

    def __init__(
        self,
        roster: Roster,
        authority: x509.Certificate,
        limits: Limits,
        now_s: Callable[[], float],
    ) -> None:
        self._roster, self._authority, self._limits, self._now_s = (
            roster,
            authority,
            limits,
            now_s,
        )
        self._certificates: OrderedDict[bytes, x509.Certificate] = OrderedDict()
        self._allowances: OrderedDict[str, Allowance] = OrderedDict()
        self._streams: Counter[int] = Counter()
        self._calls: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by caller, connection

    @contextmanager
    def admitted(
        self, peer: Mapping[str, Iterable[bytes]], roles: Collection[Role], connection: str
    ) -> Iterator[Caller]:
        """Around a call that came over a connection: its caller. Raises Refusal, as `admit` does."""
        caller = self.admit(peer, roles)
        calls = self._calls[str(caller)]
        if connection not in calls and len(calls) >= self._limits.connections:
            raise Refusal(
                Reason.TOO_MANY_CONNECTIONS, f"{self._limits.connections} connections are allowed"
            )
        calls[connection] += 1
        try:
            yield caller
        finally:
            calls[connection] -= 1
            if not calls[connection]:
                del calls[connection]
            if not calls:
                self._calls.pop(str(caller), None)

    def admit(self, peer: Mapping[str, Iterable[bytes]], roles: Collection[Role]) -> Caller:
        """The caller, if a certificate in one of these roles is shown. Raises Refusal."""
        certificate = self._certificate(peer)
        try:
            require_valid(certificate, self._authority, self._now_s())
            holder = holder_of(certificate)
        except Untrusted as error:
            raise Refusal(Reason.UNTRUSTED, str(error)) from error
        if holder.role not in roles:
            raise Refusal(
                Reason.WRONG_ROLE, f"a certificate of role {holder.role} is not for this call"
            )
        caller = Caller(
            role=holder.role,
            name=holder.name,
            device_id=_device_id(holder.name) if holder.role is Role.DEVICE else None,
        )
        if caller.device_id is not None:
            self.require_enrolled(caller.device_id)
        self._take(str(caller))
        return caller

    def require_enrolled(self, device_id: int) -> None:
        """Raise Refusal unless the device is enrolled and not revoked."""
        device = self._roster.find(device_id)
        if device is None:
            raise Refusal(
                Reason.UNKNOWN_DEVICE, f"device {device_id} is not enrolled here; use a new ticket"
            )
        if device.revoked_at_s is not None:
            raise Refusal(
                Reason.REVOKED, f"device {device_id} was revoked; ask the coordinator's owner"
            )

    @contextmanager
    def stream(self, device_id: int) -> Iterator[None]:
        """Around a model or an update under way. Raises Refusal when the device has too many."""
        if self._streams[device_id] >= self._limits.streams:
            raise Refusal(
                Reason.TOO_MANY_STREAMS, f"{self._limits.streams} transfers at once are allowed"
            )
        self._streams[device_id] += 1
        try:
            yield
        finally:
            self._streams[device_id] -= 1
            if not self._streams[device_id]:
                del self._streams[device_id]

    def _take(self, who: str) -> None:
        now_s = self._now_s()
        allowance = self._allowances.setdefault(
            who,
            Allowance(
                most=self._limits.calls,
                per_s=self._limits.calls_per_s,
                left=self._limits.calls,
                at_s=now_s,
            ),
        )
        _keep_newest(self._allowances, who)
        if not allowance.take(now_s):
            raise Refusal(
                Reason.TOO_MANY_CALLS, f"{self._limits.calls_per_s:g} calls a second are allowed"
            )

    def _certificate(self, peer: Mapping[str, Iterable[bytes]]) -> x509.Certificate:
        for pem in peer.get(CERTIFICATE, ()):
            if pem not in self._certificates:
                try:
                    self._certificates[pem] = x509.load_pem_x509_certificate(pem)
                except Exception as error:  # the library raises kinds of its own
                    raise Refusal(Reason.UNTRUSTED, "a certificate that cannot be read") from error
            _keep_newest(self._certificates, pem)
            return self._certificates[pem]
        raise Refusal(Reason.UNTRUSTED, "the call shows no certificate")


def _device_id(name: str) -> int:
    if not (name.isascii() and name.isdigit() and len(name) < 20):
        raise Refusal(Reason.UNTRUSTED, "a device's certificate without its id")
    return int(name)


def _keep_newest(items: OrderedDict[Key, Value], key: Key) -> None:
    items.move_to_end(key)
    while len(items) > REMEMBERED:
        items.popitem(last=False)
