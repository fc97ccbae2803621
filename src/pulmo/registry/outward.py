"""Requests to other machines that cannot be led astray: checked addresses, no redirects, bounds."""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from pulmo import __version__
from pulmo.config.settings import shown
from pulmo.errors import ConfigError

TIMEOUT_S = 10.0
ANSWER_BYTES = 64 * 1024

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254")})


@dataclass(frozen=True)
class Answer:
    """What the other side said: the status, `Retry-After` in seconds, the beginning of the body."""

    status: int
    wait_s: float
    body: bytes


def check_url(url: str, private_hosts: frozenset[str]) -> SplitResult:
    """The parts of an address that may be asked. Raises ConfigError.

    https alone, without user names; http only to this machine and where its host is listed.
    """
    told = shown(url)
    if not url.isascii() or any(ord(char) <= 32 or char in '\\"<>^`{|}' for char in url):
        raise ConfigError(f"{told!r} is no address: it has characters that belong into none")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{told} is no address: {shown(str(error))}") from None
    if not parts.hostname or port == 0 or "%" in parts.netloc:
        raise ConfigError(f"{told} is no address: it names no host or no port")
    if "@" in parts.netloc or parts.fragment:
        raise ConfigError(f"{url.partition('//')[0]}//…: an address has no user name and no '#'")
    local = parts.hostname in private_hosts and is_loopback(parts.hostname)
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise ConfigError(
            f"{told} is refused: only https, or http to this machine if PULMO_HOOKS_PRIVATE_HOSTS "
            "lists it"
        )
    return parts


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its literal name or address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def is_public(address: Address) -> bool:
    """Whether an address belongs to the open internet, also where it wraps another one."""
    inner: Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        elif address.teredo is not None or address.scope_id is not None:
            return False
        else:
            inner = address.ipv4_mapped or address.sixtofour
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_never_asked(address: Address) -> bool:
    """Link-local and metadata addresses, which tell a machine's secrets, also to listed hosts."""
    mapped = getattr(address, "ipv4_mapped", None)
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address in _METADATA
        or (mapped is not None and is_never_asked(mapped))
    )


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    private_hosts: frozenset[str] = frozenset(),
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """Send a body and return the answer, whatever its status; redirects are not followed.

    Raises ConfigError for an address that is refused before anything is sent, OSError or
    http.client.HTTPException where there is no answer within `timeout_s`.
    """
    parts = check_url(url, private_hosts)
    listed = parts.hostname in private_hosts
    address = _resolve(parts, listed)
    connection = _Connection(parts, address, listed, timeout_s)
    target = parts.path or "/"
    target += f"?{parts.query}" if parts.query else ""
    told = {"User-Agent": f"pulmo/{__version__}", "Content-Type": "application/json", **headers}
    with closing(connection):
        connection.connect()
        # A timeout of the socket begins anew with every byte; this one does not.
        timer = threading.Timer(timeout_s, connection.cut)
        timer.start()
        try:
            connection.request("POST", target, body, told)
            answer = connection.getresponse()
            text = answer.read(ANSWER_BYTES)
        finally:
            timer.cancel()
    return Answer(answer.status, _seconds(answer.getheader("Retry-After", "")), text)


def _resolve(parts: SplitResult, listed: bool) -> tuple[str, int]:
    """One address of a host, all of whose addresses may be asked; the name is not asked again."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = str(parts.hostname)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise ConfigError(f"{host} is no name of a host: {error}") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        _require_allowed(host, address, listed)
    return addresses[0], port


def _require_allowed(host: str, text: str, listed: bool) -> None:
    address = ipaddress.ip_address(text)
    if is_never_asked(address) or not (listed or is_public(address)):
        raise ConfigError(
            f"{host} is refused: its address {text} is not public. Inside your own network, list "
            "the host in PULMO_HOOKS_PRIVATE_HOSTS"
        )


class _Connection(http.client.HTTPConnection):
    """A connection to a checked address, which is checked once more when it is made."""

    def __init__(
        self, parts: SplitResult, address: tuple[str, int], listed: bool, timeout_s: float
    ) -> None:
        super().__init__(str(parts.hostname), address[1], timeout=timeout_s)
        self._address, self._listed, self._timeout_s = address, listed, timeout_s
        self._secure = parts.scheme == "https"
        self.default_port = 443 if self._secure else 80  # which the header Host leaves out

    def connect(self) -> None:
        """Connect; with https, prove the name of the other side."""
        raw = socket.create_connection(self._address, self._timeout_s)
        try:
            _require_allowed(self.host, raw.getpeername()[0], self._listed)
            if self._secure:
                raw = ssl.create_default_context().wrap_socket(raw, server_hostname=self.host)
        except BaseException:
            raw.close()
            raise
        self.sock = self._own = raw

    def cut(self) -> None:
        """End an exchange that takes too long."""
        with suppress(OSError):  # it may have ended; `sock` goes as soon as an answer has begun
            self._own.shutdown(socket.SHUT_RDWR)


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0
