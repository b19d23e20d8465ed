"""Pictures from URLs: what may be asked for, and which addresses may be connected to."""

from __future__ import annotations

import pytest
from https_server import HOST
from hypothesis import example, given
from hypothesis import strategies as st

from serve_app.errors import RequestError
from serve_app.security.addresses import is_public
from serve_app.security.allowed_urls import AllowedUrls
from serve_app.settings import ServiceSettings

HOSTS = AllowedUrls([HOST, "*.shop.example", "cdn.example.com:8443", "käse.example.com"])


# --- what may be asked for -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://pictures.example.com/a.jpg", "https://pictures.example.com/a.jpg"),
        ("HTTPS://Pictures.Example.COM:443/a", "https://pictures.example.com/a"),
        ("https://pictures.example.com.", "https://pictures.example.com/"),
        ("https://pictures.example.com?a=%2F%2b+x", "https://pictures.example.com/?a=%2F%2b+x"),
        ("https://pictures.example.com/%7Ea/ä#top", "https://pictures.example.com/%7Ea/%C3%A4"),
        ("https://a.shop.example/x", "https://a.shop.example/x"),
        ("https://a.b.shop.example/x", "https://a.b.shop.example/x"),
        ("https://cdn.example.com:8443/x", "https://cdn.example.com:8443/x"),
        ("https://käse.example.com/x", "https://xn--kse-qla.example.com/x"),
        ("https://XN--KSE-QLA.example.com/x", "https://xn--kse-qla.example.com/x"),
        ("https://pictures。example。com/x", "https://pictures.example.com/x"),
    ],
)
def test_urls_of_the_list_are_asked_for(url, asked):
    assert str(HOSTS.check(url)) == asked


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://pictures.example.com/a", "url_not_allowed"),
        ("ftp://pictures.example.com/a", "url_not_allowed"),
        ("file://pictures.example.com/etc/passwd", "url_not_allowed"),
        ("file:///etc/passwd", "invalid_url"),
        ("javascript:alert(1)", "invalid_url"),
        ("data:image/png;base64,AAAA", "invalid_url"),
        ("gopher://pictures.example.com/", "url_not_allowed"),
        ("//pictures.example.com/a", "invalid_url"),
        ("pictures.example.com/a", "invalid_url"),
        ("", "invalid_url"),
        ("https://", "invalid_url"),
        ("https:///a", "invalid_url"),
        ("https://:443/a", "url_not_allowed"),
        ("https://evil.example/a", "url_not_allowed"),
        ("https://example.com/a", "url_not_allowed"),
        ("https://shop.example/a", "url_not_allowed"),
        ("https://xshop.example/a", "url_not_allowed"),
        ("https://a.shop.example.evil.com/a", "url_not_allowed"),
        ("https://pictures.example.com../a", "url_not_allowed"),
        ("https://.pictures.example.com/a", "url_not_allowed"),
        ("https://pictures.example.com:444/a", "url_not_allowed"),
        ("https://pictures.example.com:0/a", "url_not_allowed"),
        ("https://cdn.example.com/a", "url_not_allowed"),
        ("https://pictures.example.com:65536/a", "invalid_url"),
        ("https://pictures.example.com:x/a", "invalid_url"),
        ("https://user@pictures.example.com/a", "url_not_allowed"),
        ("https://user:word@pictures.example.com/a", "url_not_allowed"),
        ("https://@pictures.example.com/a", "url_not_allowed"),
        ("https://pictures.example.com@evil.example/a", "url_not_allowed"),
        ("https://evil.example#@pictures.example.com/a", "url_not_allowed"),
        ("https://evil.example\\@pictures.example.com/a", "invalid_url"),
        ("https://pictures.example.com\\.evil.example/a", "invalid_url"),
        ("https://pictures.example.com%2eevil.example/a", "url_not_allowed"),
        ("https://pictures.example.com/\r\nHost: evil.example", "invalid_url"),
        (" https://pictures.example.com/a", "invalid_url"),
        ("https://pictures.example.com/\ud800", "invalid_url"),
        ("https://pictures.example.com/" + "a" * 8192, "invalid_url"),
        ("https://localhost/a", "url_not_allowed"),
        ("https://127.0.0.1/a", "url_not_allowed"),
        ("https://2130706433/a", "url_not_allowed"),
        ("https://0x7f000001/a", "url_not_allowed"),
        ("https://0x7f.0.0.1/a", "url_not_allowed"),
        ("https://0177.0.0.1/a", "url_not_allowed"),
        ("https://127.1/a", "url_not_allowed"),
        ("https://\uff11\uff12\uff17.0.0.1/a", "url_not_allowed"),
        ("https://[::1]/a", "url_not_allowed"),
        ("https://[::ffff:127.0.0.1]/a", "url_not_allowed"),
        ("https://[fe80::1%25eth0]/a", "url_not_allowed"),
        ("https://[v1.a]/a", "url_not_allowed"),
        ("https://[::1/a", "invalid_url"),
        ("https://" + "a." * 130 + "shop.example/a", "url_not_allowed"),
        ("https://" + "a" * 64 + ".shop.example/a", "url_not_allowed"),
        ("https://ex‍ample.shop.example/a", "url_not_allowed"),
        ("https://a\u2100.shop.example/a", "invalid_url"),
    ],
)
def test_other_urls_are_refused(url, code):
    with pytest.raises(RequestError) as refused:
        HOSTS.check(url)
    assert (refused.value.code, refused.value.status) == (
        code,
        {"url_not_allowed": 403, "invalid_url": 422}[code],
    )
    assert refused.value.hint


def checked(text):
    try:
        return HOSTS.check(text)
    except RequestError:
        return None


@given(st.text(max_size=40) | st.from_regex(r"https://[^/]{0,30}(/.{0,10})?", fullmatch=True))
@example("https://pictures.example.com/\u0130")
def test_any_text_is_refused_or_means_a_host_of_the_list(text):
    url = checked(text)
    if url is not None:
        assert url.scheme == "https"
        assert str(url).isascii()
        assert url.raw_user is url.raw_password is None
        assert (url.raw_host, url.port) in {
            (HOST, 443),
            ("cdn.example.com", 8443),
            ("xn--kse-qla.example.com", 443),
        } or url.raw_host.endswith(".shop.example")


@given(st.sampled_from([HOST, "evil.example", "a.shop.example"]), st.text(max_size=12))
def test_nothing_behind_the_host_changes_it(host, rest):
    url = checked(f"https://{host}/{rest}")
    assert url is None or url.raw_host == host != "evil.example"


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*", "*.com", "localhost", "10.0.0.1", "[::1]", "https://a.example", "a.example/x"),
        *(
            "a.example:",
            "a.example:0",
            "a.example:65536",
            "a.example:x",
            "a.*.example",
            "*a.example",
        ),
        *("user@a.example", "a..example", "-a.example"),
    ],
)
def test_entries_that_are_no_hosts_are_refused(entry):
    with pytest.raises(ValueError, match="is no host"):
        AllowedUrls([entry])
    with pytest.raises(ValueError, match="is no host"):
        ServiceSettings(model="m", url_hosts=[entry])


# --- which addresses are connected to --------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1"),
        *("198.18.0.1", "203.0.113.7", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("168.63.129.16", "192.88.99.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "2606:4700::1%eth0", "fc00::1", "fd00:ec2::254"),
        *("ff02::1", "fec0::1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::808:808", "64:ff9b:1::1"),
        *("2002:7f00:1::", "2001::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1"),
    ],
)
def test_addresses_of_ones_own_networks_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.255.255", "100.128.0.1"),
        *(
            "223.255.255.255",
            "168.63.129.17",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
        ),
    ],
)
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


@given(st.ip_addresses())
def test_what_the_standard_library_finds_special_is_not_public(address):
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast
