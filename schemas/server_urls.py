"""Adds passwords and CA files, which have settings of their own, to the URLs of PostgreSQL, ClickHouse and Valkey.

Enters: settings by name. Leaves: the changed URLs. Every client library can read them, so a program that uses the URL also uses TLS and
checks the certificate. A wrong URL raises WrongUrl here, one sentence without a secret, because the error of a client library may contain
the password.
"""

import re
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from schemas.kafka_access import unreadable
from schemas.secret_masking import MaskedUrl


class WrongUrl(ValueError):
    """A server's URL that is not valid, or settings of a server that contradict each other. The text is one sentence without a secret."""


class _Kind(NamedTuple):
    schemes: tuple[str, ...]
    encrypted: tuple[str, ...]  # the schemes that can have TLS
    ca: str  # the URL's parameter for the CA file
    checking: str  # the URL's parameter that turns the check of certificates on or off
    checks: tuple[str, ...]  # its values with which certificates are checked
    demand: Mapping[str, str]  # parameters added with a CA file, unless the URL has them


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
    """The URLs that change, by the name of their setting. Reads the CA files, so it blocks for a moment. Raises WrongUrl."""
    for name in (*KINDS, "s3"):
        if file := str(given.get(f"{name}_ca_file") or ""):
            _check_authorities(f"CHAT4ALL_{name.upper()}_CA_FILE", file)
    if given.get("s3_ca_file") and str(given.get("s3_url") or "https:").partition(":")[0] != "https":
        raise WrongUrl("CHAT4ALL_S3_CA_FILE is set, but CHAT4ALL_S3_URL does not use TLS: write https://")
    return dict(_changed(given))


def _check_authorities(setting: str, file: str) -> None:
    if reason := unreadable(file):
        raise WrongUrl(f"{setting}: {file} cannot be read: {reason}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError as error:
        raise WrongUrl(f"{setting}: {file} contains no certificate in PEM ({error.reason})") from None


def _check(name: str, url: str, kind: _Kind) -> None:
    setting = f"CHAT4ALL_{name.upper()}_URL"
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that do not close
        parts = urlsplit("")
    if parts.scheme not in kind.schemes or "://" not in url:
        raise WrongUrl(f"{setting} is not a URL of this kind of server: it must begin with {kind.schemes[0]}://")
    if name == "postgres" and _NO_CODE.search(url):
        raise WrongUrl(f"{setting} has a % without two hexadecimal digits after it: write %25")


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
            f"CHAT4ALL_{name.upper()}_URL contains a password, and CHAT4ALL_{name.upper()}_PASSWORD is set: remove it from the URL"
        )
    if not at and name != "valkey":
        raise WrongUrl(f"CHAT4ALL_{name.upper()}_PASSWORD is set, but CHAT4ALL_{name.upper()}_URL names no user")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def _with_ca(name: str, url: str, kind: _Kind, file: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in kind.encrypted:
        wrong = f"CHAT4ALL_{name.upper()}_URL begins with {parts.scheme}://, which does not use TLS"
        raise WrongUrl(f"CHAT4ALL_{name.upper()}_CA_FILE is set, but {wrong}: write {kind.encrypted[0]}://")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if given.get(kind.checking, kind.checks[0]).lower() not in kind.checks:
        wrong = f"CHAT4ALL_{name.upper()}_URL has {kind.checking}={given[kind.checking]}"
        raise WrongUrl(
            f"CHAT4ALL_{name.upper()}_CA_FILE is set, but {wrong}, which does not check certificates: remove it"
        )
    return urlunsplit(
        parts._replace(query=urlencode({**kind.demand, **given, kind.ca: file}, quote_via=quote, safe="/"))
    )
