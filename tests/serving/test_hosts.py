"""Which names and pages a service answers, by the headers of the request."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from clipstill.serving.hosts import Hosts, is_local


def refused(hosts: Hosts, host: str | None, origin: str | None = None) -> bool:
    given = {"host": host, "origin": origin}
    return hosts.refusal(Headers({name: value for name, value in given.items() if value is not None})) is not None


LOCAL = [
    "127.0.0.1:8000",
    "127.0.0.1",
    "localhost:9",
    "LOCALHOST",
    "localhost.",
    "127.0.0.2:8000",
    "[::1]:8000",
    "[::1]",
]
FOREIGN = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.5:8000"]
MALFORMED = ["", ":8000", "[::1", "x@evil.example", "127.0.0.1@evil.example", "evil.example/127.0.0.1", "::1]["]


@pytest.mark.parametrize("listens_on", ["127.0.0.1", "::1", "localhost"])
def test_on_this_machine_alone_only_its_names_are_answered(listens_on: str) -> None:
    hosts = Hosts(listens_on)
    assert [host for host in LOCAL if refused(hosts, host)] == []
    assert [host for host in [*FOREIGN, *MALFORMED] if not refused(hosts, host)] == []


@pytest.mark.parametrize("listens_on", ["0.0.0.0", "::", "192.168.1.5", "classifier.lan"])
def test_in_a_network_or_a_container_every_name_and_page_is_answered(listens_on: str) -> None:
    hosts = Hosts(listens_on)
    for host in [*LOCAL, *FOREIGN, "classifier:8000"]:
        assert not refused(hosts, host, "https://shop.example")


def test_allowed_names_are_answered_wherever_it_listens() -> None:
    for hosts in (Hosts("127.0.0.1", ["Shop.example"]), Hosts("0.0.0.0", ["Shop.example"])):
        assert not refused(hosts, "shop.example")
        assert not refused(hosts, "SHOP.example:8443", "https://shop.example:8443")
        assert not refused(hosts, "localhost:8000")
        assert refused(hosts, "evil.example")


def test_with_allowed_names_a_network_may_still_use_addresses() -> None:
    assert not refused(Hosts("0.0.0.0", ["shop.example"]), "10.0.0.7:8000")
    assert refused(Hosts("127.0.0.1", ["shop.example"]), "10.0.0.7:8000")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:3000", "null", "", "http://[::1", "file://"]
)
def test_pages_of_others_are_refused(origin: str) -> None:
    assert refused(Hosts("127.0.0.1"), "127.0.0.1:8000", origin)


def test_its_own_page_and_that_of_its_proxy_are_answered() -> None:
    hosts = Hosts("127.0.0.1", ["shop.example"])
    assert not refused(hosts, "127.0.0.1:8000", "http://127.0.0.1:8000")
    assert not refused(hosts, "127.0.0.1:8000", "https://shop.example")  # A proxy that does not pass the name on.


def test_client_that_is_no_browser_and_names_no_host_is_answered() -> None:
    assert not refused(Hosts("127.0.0.1"), None)


def test_the_refusal_names_the_option() -> None:
    said = Hosts("127.0.0.1").refusal(Headers({"host": "shop.example"}))
    assert said is not None
    assert "'shop.example' is no name of this service" in said
    assert "--allow-host" in said


def test_addresses_of_this_machine_are_local() -> None:
    assert all(map(is_local, ("127.0.0.1", "127.1.2.3", "::1", "localhost", "LocalHost")))
    assert not any(map(is_local, ("0.0.0.0", "::", "10.0.0.1", "example.com", "")))
