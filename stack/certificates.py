"""Certificates of a stack, signed by an authority that exists only in this process.

Enters: a folder. Leaves: PEM files: `ca.pem`; `<name>.pem`, which holds a key and its certificate, valid for 127.0.0.1 and localhost.
Guaranteed: only their owner can read keys; the authority's own key is never stored, so no other certificate can be signed later.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas import private_files

HERE = ("127.0.0.1", "localhost")


class Certificates:
    """The certificates of one folder. Existing files stay. The first `issue` makes a new authority and replaces `ca.pem`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._authority: Any = None

    def issue(
        self,
        name: str,
        hosts: tuple[str, ...] = HERE,
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Path:
        """Makes a key and a certificate whose subject has the common name `name`, and returns their file."""
        import trustme  # noqa: PLC0415  # only a secured stack needs it
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # the same

        if self._authority is None:
            self._authority = trustme.CA(organization_name="a development stack of Chat4All")
            private_files.write(self.ca, self._authority.cert_pem.bytes())
        certificate = self._authority.issue_cert(*hosts, common_name=name, not_before=not_before, not_after=not_after)
        key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
        # Kafka needs PKCS8; libraries that read OpenSSL's own format can read it too.
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = self.folder / f"{name}.pem"
        private_files.write(
            file, b"".join((pem, *(each.bytes() for each in certificate.cert_chain_pems))).decode("ascii")
        )
        return file

    def expired(self, name: str) -> Path:
        """Makes a certificate that was valid for a day in 2020."""
        return self.issue(name, not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=datetime(2020, 1, 2, tzinfo=UTC))
