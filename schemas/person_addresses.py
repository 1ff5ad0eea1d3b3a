"""The one form of a person's address, for keys: two addresses with which a provider reaches the same person have the same form.

In: an address as an application or a provider gives it. Out: its form for keys; calls keep the address as it is. Guaranteed: pure; the form
of a form is the form itself. It cannot be in connectors/, because the keys of records are made here.

WhatsApp's own id of a person, the wa_id, is in what they write, in receipts and in preferences. It may differ from the number to which we
send: https://developers.facebook.com/docs/whatsapp/cloud-api/reference/phone-numbers. On the other channels an address has one form only.
"""

import re

_SCOPED_ID = re.compile(r"[A-Z]{2}\.(ENT\.)?\d+", re.ASCII)  # a person who hides their number
_NO_DIGIT = re.compile(r"[^0-9]+")


def one_form(channel: str, address: str) -> str:
    """The address in one form: on WhatsApp the digits of a number, without those that a wa_id may have or lack. These are Brazil's ninth
    digit, the 1 of Mexico and the 9 of Argentina."""
    if channel != "whatsapp" or _SCOPED_ID.fullmatch(address):
        return address
    digits = _NO_DIGIT.sub("", address)
    if len(digits) == 13:
        if digits.startswith("55") and digits[4] == "9":
            return digits[:4] + digits[5:]
        if digits.startswith(("521", "549")):
            return digits[:2] + digits[3:]
    return digits or address
