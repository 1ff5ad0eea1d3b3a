"""Whether the long proofs run: CHAT4ALL_LONG=1 makes some tests longer than `make test` has time for."""

import os

LONG = os.environ.get("CHAT4ALL_LONG") == "1"
