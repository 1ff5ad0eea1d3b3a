"""Passwords in URLs. Enters: a text. Leaves: the text with MASK in place of each password; everything else stays as it is."""

import re

MASK = "***"
OF_A_URL = r"(?<=://)(?P<user>[^\s/:@'\"]*):[^\s/@'\"]+@"
_PATTERN = re.compile(OF_A_URL)


def without_passwords(text: str) -> str:
    return _PATTERN.sub(rf"\g<user>:{MASK}@", text)
