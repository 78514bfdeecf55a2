"""Names by which browsers may ask the service.

A page of a stranger can point a name of its own at this machine (DNS rebinding); the browser then lets it read the
answers. Such a request carries the foreign name in ``Host``. A request that another page makes carries that page's
address in ``Origin``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.datastructures import Headers


def is_local(name: str) -> bool:
    """Whether a name or address means this machine alone, as 127.0.0.1, ::1 and localhost do."""
    address = _address(name)
    return name.lower() == "localhost" if address is None else address.is_loopback


class Hosts:
    """The names of a service that listens on a host.

    On an address of this machine alone, these are the machine's own and the ``allowed`` ones, such as a proxy's. On
    other addresses it has any name, since every network names its machines; but where some are ``allowed``, these and
    addresses are all.
    """

    def __init__(self, host: str, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(name.lower() for name in allowed)
        self._is_local = is_local(host)

    def refusal(self, headers: Headers) -> str | None:
        """Why a request with these headers is refused; None for one that is not."""
        if not (self._is_local or self._allowed):
            return None
        host, origin = headers.get("host"), headers.get("origin")
        # Browsers always send it.
        if host is None:
            return None
        if not self._knows(_name_in(f"//{host}")):
            return f"{host[:200]!r} is no name of this service. If it should be one: clipstill serve --allow-host NAME"
        if origin is None or _name_in(origin) in self._allowed or origin.partition("//")[2].lower() == host.lower():
            return None
        return f"the page {origin[:200]!r} is none of this service. If it may ask: clipstill serve --allow-host NAME"

    def _knows(self, name: str) -> bool:
        return name in self._allowed or is_local(name) or (not self._is_local and _address(name) is not None)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _name_in(address: str) -> str:
    """The host's name in lower case, without brackets, port and final dot; empty in a malformed address."""
    try:
        return (urlsplit(address).hostname or "").removesuffix(".")
    except ValueError:
        return ""
