"""Certificates of a stack, signed by an authority that lives as long as it is used here.

Enters: a folder. Leaves: PEM files: `ca.pem`; `<name>.pem`, which holds a key and its certificate, good for 127.0.0.1 and localhost.
Guaranteed: keys are readable by their owner only; the authority's own key is never written down, so that nobody can sign more.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas import private_files

HERE = ("127.0.0.1", "localhost")


class Certificates:
    """Of one folder. What is there already is kept, with its authority; `issue` needs an authority that was made here."""

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
        """The file of a key and its certificate, whose subject has the common name `name`."""
        import trustme  # noqa: PLC0415  # only a secured stack needs it
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # the same

        if self._authority is None:
            self._authority = trustme.CA(organization_name="a development stack of Chat4All")
            private_files.write(self.ca, self._authority.cert_pem.bytes())
        certificate = self._authority.issue_cert(*hosts, common_name=name, not_before=not_before, not_after=not_after)
        key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
        # as Kafka wants it; libraries that read OpenSSL's own form read this one, too
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = self.folder / f"{name}.pem"
        private_files.write(
            file, b"".join((pem, *(each.bytes() for each in certificate.cert_chain_pems))).decode("ascii")
        )
        return file

    def expired(self, name: str) -> Path:
        """A certificate that was good for a day in 2020."""
        return self.issue(name, not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=datetime(2020, 1, 2, tzinfo=UTC))
