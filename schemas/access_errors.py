"""Why a server does not let us in, as one sentence: what, where, and which setting to look at.

What enters: a server's name, its address, what its client library said. Leaves: a sentence without a secret. Guaranteed: a certificate
that is not believed is told apart by its reason, which client libraries often do not tell: the handshake is made once more, here.
"""

import re
import socket
import ssl
import struct
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

SECONDS = 5.0
_UNKNOWN = frozenset({18, 19, 20, 21, 24, 26})  # X509_V_ERR_*: nobody we believe has signed it
_LATE, _EARLY, _HOST, _ADDRESS = 10, 9, 62, 64
_POSTGRES_TLS = struct.pack("!II", 8, 80_877_103)  # what a client of PostgreSQL says before the handshake
_OF_CERTIFICATES = re.compile(r"certificate|ssl|tls", re.IGNORECASE)
_OF_PASSWORDS = re.compile(
    r"(password )?authentication failed|no password supplied|role \S+ does not exist|WRONGPASS|NOAUTH|invalid (username|password)",
    re.IGNORECASE,
)


class Server(NamedTuple):
    """A server as people know it; `setting` is what the names of its settings begin with."""

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
    """PostgreSQL, ClickHouse or Valkey by its URL."""
    parts = urlsplit(url)
    said = parse_qs(parts.query)
    files = [said[key][0] for key in ("sslrootcert", "ca_cert", "ssl_ca_certs") if key in said]
    setting = {"PostgreSQL": "POSTGRES"}.get(name, name.upper())
    files = [file for file in files if file != "system"]  # libpq's word for the authorities of this system
    first = urlsplit(f"//{parts.netloc.rpartition('@')[2].split(',')[0]}")  # libpq takes several, with commas between
    try:
        port = first.port
    except ValueError:  # no number, as the client library has said
        port = None
    port = port or {"POSTGRES": 5432, "CLICKHOUSE": 8123, "VALKEY": 6379}[setting]
    return Server(name, setting, first.hostname or "localhost", port, unquote(parts.username or ""), *files[:1])


def access_error(server: Server, error: BaseException) -> str:
    """What a client library said, as a sentence; one line in any case."""
    text = " ".join(str(error).split()) or type(error).__name__
    return known(server, text) or f"{server.name} cannot be reached (CHAT4ALL_{server.setting}_URL): {text}"


def known(server: Server, text: str) -> str:
    """The sentence for a password or a certificate that is refused; empty when it is something else."""
    if _OF_PASSWORDS.search(text):
        return password(server)
    return certificate(server) if _OF_CERTIFICATES.search(text) else ""


def password(server: Server) -> str:
    who = f"user {server.user}" if server.user else "us"
    names = f"CHAT4ALL_{server.setting}_URL and CHAT4ALL_{server.setting}_PASSWORD"
    if server.setting == "KAFKA":
        names = "CHAT4ALL_KAFKA_USER and CHAT4ALL_KAFKA_PASSWORD"
    return f"{server.place} does not let {who} in: unknown there, or a wrong password; look at {names} (or its _FILE)"


def listens(server: Server) -> bool:
    """Whether anybody answers there."""
    try:
        with socket.create_connection((server.host, server.port), timeout=SECONDS):
            return True
    except OSError:
        return False


def certificate(server: Server, context: ssl.SSLContext | None = None) -> str:
    """Why the certificate a server shows is not believed; empty when it is, or the server does not answer. Blocks for some seconds."""
    try:
        context = context or ssl.create_default_context(cafile=server.ca_file or None)
    except OSError as error:  # a file that is not there is told by the client library
        is_no_pem = isinstance(error, ssl.SSLError)
        return f"{server.place}: {server.ca_file} holds no certificate in PEM" if is_no_pem else ""
    try:
        with socket.create_connection((server.host, server.port), timeout=SECONDS) as connection:
            if server.setting == "POSTGRES":
                connection.sendall(_POSTGRES_TLS)
                if connection.recv(1) != b"S":
                    return f"{server.place} speaks no TLS: look at CHAT4ALL_POSTGRES_URL and CHAT4ALL_POSTGRES_CA_FILE"
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
        return "its certificate is not good yet; look at the clocks of both machines"
    if code in (_HOST, _ADDRESS):
        return f"its certificate is for another name than {server.host}; look at CHAT4ALL_{server.setting}_URL"
    if code in _UNKNOWN:
        believed = f"who is in {server.ca_file}" if server.ca_file else "an authority of this system"
        return f"its certificate is not signed by {believed}; look at CHAT4ALL_{server.setting}_CA_FILE"
    return f"its certificate is not believed: {error.verify_message}"


def _of_handshake(server: Server, error: ssl.SSLError) -> str:
    if error.reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return f"{server.place} speaks no TLS on this port; look at CHAT4ALL_{server.setting}_URL"
    setting = "CERTIFICATE_FILE" if server.setting == "KAFKA" else "URL"
    return f"{server.place} refuses the TLS handshake ({error.reason}); look at CHAT4ALL_{server.setting}_{setting}"
