"""The URLs of PostgreSQL, ClickHouse and Valkey, made whole: the password and the CA file of settings of their own go into them.

What enters: settings by name. What leaves: those URLs that change; every client library reads them as they are, so that whoever has the URL
has TLS with a checked certificate. Raises WrongUrl, one sentence without a secret: here, for what a client library says of a URL that it
cannot read may quote the password.
"""

import re
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from schemas.kafka_access import unreadable
from schemas.secret_masking import MaskedUrl


class WrongUrl(ValueError):
    """Settings of a server that do not go together; one sentence."""


class _Kind(NamedTuple):
    schemes: tuple[str, ...]
    encrypted: tuple[str, ...]  # those of them that may have TLS
    ca: str  # how the URL names the file
    checking: str  # what of the URL says whether a certificate is checked
    checks: tuple[str, ...]  # what that must be with a CA file
    demand: Mapping[str, str]  # what the URL says with a CA file, unless it says so itself


KINDS: Mapping[str, _Kind] = {
    "postgres": _Kind(
        ("postgresql", "postgres"),
        ("postgresql", "postgres"),
        "sslrootcert",
        "sslmode",
        ("verify-full", "verify-ca"),
        {"sslmode": "verify-full"},
    ),
    "clickhouse": _Kind(("http", "https"), ("https",), "ca_cert", "verify", ("true", "1"), {}),
    "valkey": _Kind(("redis", "rediss"), ("rediss",), "ssl_ca_certs", "ssl_cert_reqs", ("required",), {}),
}
_NO_CODE = re.compile("%(?![0-9A-Fa-f]{2})")


def complete(given: Mapping[str, Any]) -> dict[str, str]:
    """URLs with what belongs into them."""
    for name in (*KINDS, "s3"):
        if file := str(given.get(f"{name}_ca_file") or ""):
            _check_authorities(f"CHAT4ALL_{name.upper()}_CA_FILE", file)
    if given.get("s3_ca_file") and str(given.get("s3_url") or "https:").partition(":")[0] != "https":
        raise WrongUrl("CHAT4ALL_S3_CA_FILE is set, and CHAT4ALL_S3_URL encrypts nothing: write https://")
    return dict(_changed(given))


def _check_authorities(setting: str, file: str) -> None:
    if reason := unreadable(file):
        raise WrongUrl(f"{setting}: {file} cannot be read: {reason}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError as error:
        raise WrongUrl(f"{setting}: {file} holds no certificate in PEM ({error.reason})") from None


def _check(name: str, url: str, kind: _Kind) -> None:
    setting = f"CHAT4ALL_{name.upper()}_URL"
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that do not close
        parts = urlsplit("")
    if parts.scheme not in kind.schemes or "://" not in url:
        raise WrongUrl(f"{setting} is no URL of such a server: it begins with {kind.schemes[0]}://")
    if name == "postgres" and _NO_CODE.search(url):
        raise WrongUrl(f"{setting} has a % that no two hex digits follow: write %25")


def _changed(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, kind in KINDS.items():
        url = str(given.get(f"{name}_url") or "")
        password = str(given.get(f"{name}_password") or "")
        file = str(given.get(f"{name}_ca_file") or "")
        if url:
            _check(name, url, kind)
        if url and password:
            url = _with_password(name, url, password)
        if url and file:
            url = _with_ca(name, url, kind, file)
        if url and (password or file):
            yield f"{name}_url", MaskedUrl(url)


def _with_password(name: str, url: str, password: str) -> str:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    user, _, own = user.partition(":")
    if own and own != quote(password, safe=""):
        raise WrongUrl(
            f"CHAT4ALL_{name.upper()}_URL holds a password, and CHAT4ALL_{name.upper()}_PASSWORD is set: leave it out of the URL"
        )
    if not at and name != "valkey":
        raise WrongUrl(f"CHAT4ALL_{name.upper()}_PASSWORD is set, and CHAT4ALL_{name.upper()}_URL names no user")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def _with_ca(name: str, url: str, kind: _Kind, file: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in kind.encrypted:
        wrong = f"CHAT4ALL_{name.upper()}_URL begins with {parts.scheme}://, which encrypts nothing"
        raise WrongUrl(f"CHAT4ALL_{name.upper()}_CA_FILE is set, and {wrong}: write {kind.encrypted[0]}://")
    said = dict(parse_qsl(parts.query, keep_blank_values=True))
    if said.get(kind.checking, kind.checks[0]).lower() not in kind.checks:
        wrong = f"CHAT4ALL_{name.upper()}_URL says {kind.checking}={said[kind.checking]}"
        raise WrongUrl(
            f"CHAT4ALL_{name.upper()}_CA_FILE is set, and {wrong}, which does not check certificates: leave that out"
        )
    return urlunsplit(
        parts._replace(query=urlencode({**kind.demand, **said, kind.ca: file}, quote_via=quote, safe="/"))
    )
