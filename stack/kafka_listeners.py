"""Access to the Kafka of a stack: open, with one password, or with TLS, passwords, client certificates and ACLs.

Enters: ports, a folder. Leaves: lines of server.properties, and the settings of an administrator's client. Guaranteed: where clients need a
password or a certificate, the controller's port needs one as well; only their owner can read the files with secrets.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from schemas import private_files
from schemas.kafka_access import KafkaAccess
from schemas.secret_masking import MaskedText
from stack.certificates import Certificates

Locks = Literal["open", "password", "secured"]
ADMIN = "admin"  # may do everything; a secured Kafka knows it by its certificate
BROKER = "broker"
MUTUAL = "mutual TLS"  # the port for clients with a certificate
USER = "chat4all"  # the user of all clients, with locks "password"
MECHANISM = "SCRAM-SHA-512"  # with locks "secured"

OPEN = """\
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
"""
LOCKED = """\
listeners=SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
inter.broker.listener.name=SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.mechanism.controller.protocol=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config={jaas}
listener.name.controller.plain.sasl.jaas.config={jaas}
"""
SECURED = """\
listeners=SASL_SSL://127.0.0.1:{port},SSL://127.0.0.1:{mutual},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_SSL://127.0.0.1:{port},SSL://127.0.0.1:{mutual}
listener.security.protocol.map=SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:SSL
inter.broker.listener.name=SSL
ssl.keystore.type=PEM
ssl.keystore.location={server}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
ssl.client.auth=required
listener.name.sasl_ssl.ssl.client.auth=none
ssl.principal.mapping.rules=RULE:^(?:.*,)?CN=([^,]+).*$/$1/
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:broker;User:admin
allow.everyone.if.no.acl.found=false
"""
JAAS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    'username="{broker}" password="{own}" user_{broker}="{own}" user_{user}="{password}";'
)


@dataclass(frozen=True, slots=True)
class Listeners:
    """Lines of server.properties. `admin` is the access of an administrator; `settings` (schemas.settings names) are for all other
    clients."""

    properties: str = field(repr=False)
    admin: KafkaAccess
    settings: Mapping[str, str] = field(repr=False)
    parts: Mapping[str, str] = field(default_factory=dict)


def listeners(locks: Locks, folder: Path, port: int, controller: int, mutual: int = 0) -> Listeners:
    """The listeners for that kind of access. Makes passwords and certificates below `folder`, and keeps those that exist. `mutual` is
    the port for client certificates, used only with locks "secured"."""
    url = f"127.0.0.1:{port}"
    if locks == "open":
        return Listeners(OPEN.format(port=port, controller=controller), KafkaAccess(url), {"kafka_url": url})
    if locks == "password":
        return _with_password(folder, url, port, controller)
    certificates = folder / "certificates"
    if not (certificates / f"{ADMIN}.pem").exists():
        made = Certificates(certificates)
        made.issue(BROKER)
        made.issue(ADMIN)
    ca = certificates / "ca.pem"
    for each in (ca.name, f"{BROKER}.pem"):  # copies, because the broker may run as another user
        private_files.write(folder / "tmp" / each, (certificates / each).read_bytes())
    server = folder / "tmp" / f"{BROKER}.pem"
    properties = SECURED.format(
        port=port, controller=controller, mutual=mutual, server=server, ca=folder / "tmp" / ca.name
    )
    settings = {
        "kafka_url": url,
        "kafka_security_protocol": "SASL_SSL",
        "kafka_sasl_mechanism": MECHANISM,
        "kafka_ca_file": str(ca),
    }
    return Listeners(
        properties,
        admin(folder, f"127.0.0.1:{mutual}"),
        settings,
        {"kafka": url, MUTUAL: f"127.0.0.1:{mutual}"},
    )


def admin(folder: Path, url: str) -> KafkaAccess:
    """Access of the administrator of the secured Kafka in that folder. `url` is the port for client certificates."""
    certificates = folder.resolve() / "certificates"
    ca, own = certificates / "ca.pem", certificates / f"{ADMIN}.pem"
    return KafkaAccess(url, protocol="SSL", ca_file=str(ca), certificate_file=str(own))


def _with_password(folder: Path, url: str, port: int, controller: int) -> Listeners:
    own, password = (_password(folder / f"{name}.password") for name in (BROKER, USER))
    jaas = JAAS.format(broker=BROKER, own=own, user=USER, password=password)
    settings = {
        "kafka_url": url,
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_user": USER,
        "kafka_password": password,
    }
    access = KafkaAccess(url, protocol="SASL_PLAINTEXT", mechanism="PLAIN", user=USER, password=MaskedText(password))
    return Listeners(LOCKED.format(port=port, controller=controller, jaas=jaas), access, settings)


def _password(file: Path) -> str:
    if not file.exists():
        private_files.write(file, secrets.token_hex(16))
    return file.read_text(encoding="ascii")
