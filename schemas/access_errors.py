"""Why a server refuses our client, as one sentence: what is wrong, on which server, and which setting to look at.

Enters: a server's name and address, and the error of its client library. Leaves: one sentence without a secret. Guaranteed: if a
certificate is not trusted, the sentence gives the reason. Client libraries often do not report it, so the TLS handshake is made once more
here.
"""

import re
import socket
import ssl
import struct
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

SECONDS = 5.0  # time-out of a connection
_UNKNOWN = frozenset({18, 19, 20, 21, 24, 26})  # X509_V_ERR_*: no authority that we trust has signed it
_LATE, _EARLY, _HOST, _ADDRESS = 10, 9, 62, 64  # X509_V_ERR_*
_POSTGRES_TLS = struct.pack("!II", 8, 80_877_103)  # PostgreSQL's SSLRequest, which a client sends before the handshake
_OF_CERTIFICATES = re.compile(r"certificate|ssl|tls", re.IGNORECASE)
_OF_PASSWORDS = re.compile(
    r"(password )?authentication failed|no password supplied|role \S+ does not exist|WRONGPASS|NOAUTH|invalid (username|password)",
    re.IGNORECASE,
)


class Server(NamedTuple):
    """A server, as errors name it. `setting` is the start of the names of its settings, without CHAT4ALL_. `ca_file` is empty without
    one."""

    name: str
    setting: str
    host: str
    port: int
    user: str = ""
    ca_file: str = ""

    @property
    def place(self) -> str:
        return f"{self.name} at {self.host}:{self.port}"


def of_url(name: str, url: str) -> Server:
    """The server of a URL. `name` is PostgreSQL, ClickHouse or Valkey. Missing parts have their defaults; raises ValueError for a URL that
    urllib cannot split."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    files = [query[key][0] for key in ("sslrootcert", "ca_cert", "ssl_ca_certs") if key in query]
    setting = {"PostgreSQL": "POSTGRES"}.get(name, name.upper())
    files = [file for file in files if file != "system"]  # libpq's name for the authorities of this system
    first = urlsplit(f"//{parts.netloc.rpartition('@')[2].split(',')[0]}")  # libpq accepts several, comma-separated
    try:
        port = first.port
    except ValueError:  # not a number; the client library has reported it
        port = None
    port = port or {"POSTGRES": 5432, "CLICKHOUSE": 8123, "VALKEY": 6379}[setting]
    return Server(name, setting, first.hostname or "localhost", port, unquote(parts.username or ""), *files[:1])


def access_error(server: Server, error: BaseException) -> str:
    """The error of a client library as one sentence, always one line. May block for some seconds (`certificate`)."""
    text = " ".join(str(error).split()) or type(error).__name__
    return known(server, text) or f"{server.name} cannot be reached (CHAT4ALL_{server.setting}_URL): {text}"


def known(server: Server, text: str) -> str:
    """The sentence for a refused password or certificate, if `text` is such an error; else empty. May block for some seconds."""
    if _OF_PASSWORDS.search(text):
        return password(server)
    return certificate(server) if _OF_CERTIFICATES.search(text) else ""


def password(server: Server) -> str:
    """The sentence for a refused user or password."""
    who = f"user {server.user}" if server.user else "our client"
    names = f"CHAT4ALL_{server.setting}_URL and CHAT4ALL_{server.setting}_PASSWORD"
    if server.setting == "KAFKA":
        names = "CHAT4ALL_KAFKA_USER and CHAT4ALL_KAFKA_PASSWORD"
    return f"{server.place} refuses {who}: unknown user or wrong password; look at {names} (or its _FILE)"


def listens(server: Server) -> bool:
    """Whether the server accepts a connection. Blocks for at most 5 s."""
    try:
        with socket.create_connection((server.host, server.port), timeout=SECONDS):
            return True
    except OSError:
        return False


def certificate(server: Server, context: ssl.SSLContext | None = None) -> str:
    """Why the certificate of a server is not trusted; empty if it is, or if the server does not answer. Makes a connection, so it blocks
    for some seconds at most. `context` replaces the default one."""
    try:
        context = context or ssl.create_default_context(cafile=server.ca_file or None)
    except OSError as error:  # the client library reports a missing file
        is_no_pem = isinstance(error, ssl.SSLError)
        return f"{server.place}: {server.ca_file} contains no certificate in PEM" if is_no_pem else ""
    try:
        with socket.create_connection((server.host, server.port), timeout=SECONDS) as connection:
            if server.setting == "POSTGRES":
                connection.sendall(_POSTGRES_TLS)
                if connection.recv(1) != b"S":
                    return (
                        f"{server.place} does not use TLS: look at CHAT4ALL_POSTGRES_URL and CHAT4ALL_POSTGRES_CA_FILE"
                    )
            with context.wrap_socket(connection, server_hostname=server.host):
                return ""
    except ssl.SSLCertVerificationError as error:
        return f"{server.place}: {_reason(server, error)}"
    except ssl.SSLError as error:
        return _of_handshake(server, error)
    except OSError:
        return ""


def _reason(server: Server, error: ssl.SSLCertVerificationError) -> str:
    code = error.verify_code
    if code == _LATE:
        return "its certificate has expired; it needs a new one"
    if code == _EARLY:
        return "its certificate is not valid yet; look at the clocks of both machines"
    if code in (_HOST, _ADDRESS):
        return f"its certificate is for another name than {server.host}; look at CHAT4ALL_{server.setting}_URL"
    if code in _UNKNOWN:
        trusted = f"an authority in {server.ca_file}" if server.ca_file else "an authority of this system"
        return f"its certificate is not signed by {trusted}; look at CHAT4ALL_{server.setting}_CA_FILE"
    return f"its certificate is not trusted: {error.verify_message}"


def _of_handshake(server: Server, error: ssl.SSLError) -> str:
    if error.reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return f"{server.place} does not use TLS on this port; look at CHAT4ALL_{server.setting}_URL"
    setting = "CERTIFICATE_FILE" if server.setting == "KAFKA" else "URL"
    return f"{server.place} refuses the TLS handshake ({error.reason}); look at CHAT4ALL_{server.setting}_{setting}"
