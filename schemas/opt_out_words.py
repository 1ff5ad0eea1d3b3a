"""The words with which a person stops an account's messages, and those with which they want them again, by language.

In: a text that a person wrote. Out: its plain form, which is compared with the words. Guaranteed: pure; the plain form ignores case,
accents, widths of letters, and everything around the text that is neither a letter nor a digit; it is None for a text that is too long.

The English words are those that carriers require (CTIA's rules for short codes, the FCC's rule of 2025, Twilio's and AWS's lists), without
YES, which answers other questions too. The other languages have what carriers and senders use there. A tenant adds and removes words with
CHAT4ALL_OPT_OUT.
https://support.twilio.com/hc/en-us/articles/223134027
https://docs.aws.amazon.com/sms-voice/latest/userguide/opt-out-list-keywords.html
"""

import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

_LEFT_OUT = ("Mn", "Me", "Cf")  # marks on a letter, such as accents, and characters of no width
LONGEST_TEXT = 64  # characters of a text that may be a word, with everything around the word


class Words(NamedTuple):
    """Words of one language, in their plain form."""

    stop: tuple[str, ...]
    start: tuple[str, ...]


# They count in every language, whatever languages a tenant has.
EVERYWHERE = Words(("stop", "stopall", "stop all"), ("start", "unstop"))

LANGUAGES: Mapping[str, Words] = MappingProxyType(
    {
        "en": Words(
            ("unsubscribe", "cancel", "end", "quit", "revoke", "optout", "opt out"), ("subscribe", "optin", "opt in")
        ),
        "pt": Words(
            ("parar", "pare", "sair", "cancelar", "descadastrar", "remover"),
            ("voltar", "ativar", "reativar", "assinar"),
        ),
        "es": Words(
            ("baja", "dar de baja", "darme de baja", "parar", "detener", "salir", "cancelar"),
            ("alta", "darme de alta", "activar", "reanudar"),
        ),
        "fr": Words(
            ("arret", "arrete", "arreter", "arretez", "desabonner", "desinscrire", "desinscription"),
            ("debut", "reprendre", "reabonner"),
        ),
        "de": Words(
            ("stopp", "abmelden", "abbestellen", "austragen", "beenden"), ("anmelden", "starten", "fortsetzen")
        ),
        "it": Words(
            ("ferma", "fermati", "basta", "annulla", "cancellami", "disiscrivimi"), ("inizia", "iscrivimi", "riattiva")
        ),
        "nl": Words(("stoppen", "afmelden", "uitschrijven"), ("aanmelden", "hervatten")),
    }
)


def plain(text: str) -> str | None:
    """The text without case, accents and what surrounds it, and with single spaces; "Opt-out!" becomes "opt out". None for a text of more
    than LONGEST_TEXT characters and for one without a letter or digit."""
    if len(text) > LONGEST_TEXT:
        return None
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(
        letter if letter.isalnum() or kind == "Mc" else " "
        for letter in letters
        for kind in (unicodedata.category(letter),)
        if kind not in _LEFT_OUT
    )
    return " ".join(kept.split()) or None
