"""Whether the long forms of the tests run: `CHAT4ALL_LONG=1`."""

import os

LONG = os.environ.get("CHAT4ALL_LONG") == "1"
