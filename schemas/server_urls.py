"""The URLs of PostgreSQL, ClickHouse and Valkey, made whole: the password and the CA file of settings of their own go into them.

What enters: settings by name. What leaves: those URLs that change; every client library reads them as they are, so that whoever has the URL
has TLS with a checked certificate. Raises WrongUrl, one sentence without a secret.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from schemas.kafka_access import unreadable
from schemas.masked import MaskedUrl


class WrongUrl(ValueError):
    """Settings of a server that do not go together; one sentence."""


class _Kind(NamedTuple):
    encrypted: tuple[str, ...]  # schemes with TLS; none where TLS is asked for within the URL
    ca: str  # how the URL names the file
    demand: Mapping[str, str]  # what else it says then, unless it says so itself


KINDS: Mapping[str, _Kind] = {
    "postgres": _Kind((), "sslrootcert", {"sslmode": "verify-full"}),
    "clickhouse": _Kind(("https",), "ca_cert", {}),
    "valkey": _Kind(("rediss",), "ssl_ca_certs", {}),
}


def complete(given: Mapping[str, Any]) -> dict[str, str]:
    """URLs with what belongs into them."""
    for name in (*KINDS, "s3"):
        file = str(given.get(f"{name}_ca_file") or "")
        if file and (reason := unreadable(file)):
            raise WrongUrl(f"CHAT4ALL_{name.upper()}_CA_FILE: {file} cannot be read: {reason}")
    return dict(_changed(given))


def _changed(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, kind in KINDS.items():
        url = str(given.get(f"{name}_url") or "")
        password = str(given.get(f"{name}_password") or "")
        file = str(given.get(f"{name}_ca_file") or "")
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
    if kind.encrypted and parts.scheme not in kind.encrypted:
        wrong = f"CHAT4ALL_{name.upper()}_URL begins with {parts.scheme}://, which encrypts nothing"
        raise WrongUrl(f"CHAT4ALL_{name.upper()}_CA_FILE is set, and {wrong}: write {kind.encrypted[0]}://")
    said = dict(parse_qsl(parts.query, keep_blank_values=True))
    return urlunsplit(
        parts._replace(query=urlencode({**kind.demand, **said, kind.ca: file}, quote_via=quote, safe="/"))
    )
