"""Which words and events stop an account's messages to a person, for each tenant: the setting CHAT4ALL_OPT_OUT.

Enters: the setting, JSON. Leaves: the policy of a tenant. Guaranteed: pure; everything is bounded; no word both stops and starts. Without
the setting, the built-in words of all languages count for every tenant, all reasons count, and nothing is confirmed.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.keys import is_tenant
from schemas.opt_out_words import EVERYWHERE, LANGUAGES, LONGEST_TEXT, plain
from schemas.records import Choice

STOP_WORD, START_WORD = "stop_word", "start_word"  # the person wrote a word
USER_PREFERENCES = "user_preferences"  # the person chose so in the settings of the channel
BLOCKED, UNBLOCKED = "blocked", "unblocked"  # the person blocked our account, or shut our bot out of a chat
NOT_RECEIVING = "not_receiving"  # the provider says that it cannot bring the person any message
WROTE = "wrote"  # the person wrote to us, so that nothing prevents messages any more
REASONS = (STOP_WORD, USER_PREFERENCES, BLOCKED, NOT_RECEIVING)  # of suppressions; a tenant may choose among them
# What a person wants. The other reasons say what is possible: they never change what the person wants.
WISHES = frozenset({STOP_WORD, START_WORD, USER_PREFERENCES})

MOST_BYTES = 262_144  # of the setting
MOST_TENANTS = 500
MOST_LANGUAGES = 32  # of a tenant
MOST_WORDS = 100  # of a tenant's own, for one language and one choice
LONGEST_CONFIRMATION = 1000  # bytes: what every channel accepts
OTHERS = "*"  # in the setting: every tenant that it does not name
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})?")
_NAMES = {Choice.STOP: "stop", Choice.RESUME: "start"}
_PARTS = ("languages", "words", "without", "confirmations", "reasons")


@dataclass(frozen=True, slots=True)
class OptOutPolicy:
    """What one tenant's people can write, and what counts. Immutable."""

    # plain word -> what it chooses, and its language, which is empty for the words that count everywhere
    words: Mapping[str, tuple[Choice, str]]
    confirmations: Mapping[tuple[Choice, str], str] = field(default_factory=dict)  # (choice, language) -> text
    reasons: frozenset[str] = frozenset(REASONS)

    def word_in(self, text: str) -> tuple[Choice, str] | None:
        """What a person chooses who writes this text alone, and the language of the word; None for any other text."""
        word = plain(text)
        return None if word is None else self.words.get(word)

    def confirmation(self, choice: Choice, language: str) -> str | None:
        """The text that confirms the choice: in this language, else in the first one that has a text. None: nothing is sent."""
        found = self.confirmations.get((choice, language))
        return found or next((text for (each, _), text in self.confirmations.items() if each is choice), None)


@dataclass(frozen=True, slots=True)
class OptOutPolicies:
    """The policies of all tenants. Immutable."""

    others: OptOutPolicy
    named: Mapping[str, OptOutPolicy] = field(default_factory=dict)

    def of(self, tenant_id: str) -> OptOutPolicy:
        return self.named.get(tenant_id, self.others)


def policies_in(text: str) -> OptOutPolicies:
    """Reads CHAT4ALL_OPT_OUT (docs/opt-out.md). Raises ValueError with a sentence that names the first wrong place."""
    if not text.strip():
        return OptOutPolicies(_policy("", {}))
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(f"{len(text.encode())} bytes: at most {MOST_BYTES} are allowed")
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ValueError("no JSON of tenants: it is nested too deep") from None
    tenants = _object("", found, None)
    if len(tenants) > MOST_TENANTS:
        raise ValueError(f"{len(tenants)} tenants: at most {MOST_TENANTS} are allowed")
    for name in tenants:
        if name != OTHERS and not is_tenant(name):
            raise ValueError(f"{name[:40]!r} is neither a tenant nor {OTHERS}")
    policies = {name: _policy(name, wanted) for name, wanted in tenants.items()}
    return OptOutPolicies(policies.pop(OTHERS, _policy("", {})), policies)


def _policy(place: str, wanted: Any) -> OptOutPolicy:
    if wanted == "off":
        return OptOutPolicy({}, reasons=frozenset())
    parts = _object(f'{place} (or "off")', wanted, _PARTS)
    reasons = frozenset(_texts(f"{place}.reasons", parts.get("reasons", list(REASONS)), len(REASONS)))
    if not reasons <= set(REASONS):
        raise ValueError(f"{place}.reasons: use some of {', '.join(REASONS)}")
    words = _words(place, parts) if STOP_WORD in reasons else {}
    return OptOutPolicy(words, _confirmations(f"{place}.confirmations", parts.get("confirmations", {})), reasons)


def _words(place: str, parts: Mapping[str, Any]) -> dict[str, tuple[Choice, str]]:
    languages = _texts(f"{place}.languages", parts.get("languages", list(LANGUAGES)), MOST_LANGUAGES)
    unknown = next((each for each in languages if each not in LANGUAGES), None)
    if unknown is not None:
        raise ValueError(f"{place}.languages: there are words for {', '.join(LANGUAGES)}, not for {unknown[:20]!r}")
    without = {_word(f"{place}.without", each) for each in _texts(f"{place}.without", parts.get("without", []), 1000)}
    words: dict[str, tuple[Choice, str]] = {}
    for language, each in (("", EVERYWHERE), *((name, LANGUAGES[name]) for name in languages)):
        for choice, listed in ((Choice.STOP, each.stop), (Choice.RESUME, each.start)):
            for word in listed:
                if word not in without:
                    words.setdefault(word, (choice, language))
    own = _object(f"{place}.words", parts.get("words", {}), None)
    for language in _languages(f"{place}.words", own):
        chosen = _object(f"{place}.words.{language}", own[language], tuple(_NAMES.values()))
        for choice, name in _NAMES.items():
            where = f"{place}.words.{language}.{name}"
            for text in _texts(where, chosen.get(name, []), MOST_WORDS):
                word = _word(where, text)
                if words.get(word, (choice, ""))[0] is not choice:
                    raise ValueError(f"{where}: {text!r} has the opposite meaning too: name it in {place}.without")
                words[word] = (choice, language)
    return words


def _confirmations(place: str, wanted: Any) -> dict[tuple[Choice, str], str]:
    texts = _object(place, wanted, None)
    found: dict[tuple[Choice, str], str] = {}
    for language in _languages(place, texts):
        chosen = _object(f"{place}.{language}", texts[language], tuple(_NAMES.values()))
        for choice, name in _NAMES.items():
            text = chosen.get(name)
            if text is None:
                continue
            if not isinstance(text, str) or not text.strip() or not _fits(text):
                raise ValueError(f"{place}.{language}.{name}: a text of 1 to {LONGEST_CONFIRMATION} bytes is needed")
            found[choice, language] = text
    return found


def _fits(text: str) -> bool:
    return len(text.encode("utf-8", "surrogatepass")) <= LONGEST_CONFIRMATION and not _has_surrogate(text)


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _word(place: str, text: str) -> str:
    word = plain(text)
    if word is None:
        raise ValueError(f"{place}: {text[:40]!r} is no word: 1 to {LONGEST_TEXT} characters, with a letter or a digit")
    return word


def _languages(place: str, found: Mapping[str, Any]) -> list[str]:
    if len(found) > MOST_LANGUAGES:
        raise ValueError(f"{place}: {len(found)} languages: at most {MOST_LANGUAGES} are allowed")
    wrong = next((name for name in found if not _LANGUAGE.fullmatch(name)), None)
    if wrong is not None:
        raise ValueError(f"{place}: {wrong[:20]!r} is no code of a language, such as pt or pt-BR")
    return list(found)


def _object(place: str, value: Any, names: tuple[str, ...] | None) -> Mapping[str, Any]:
    """The value as an object with no other names than these. Raises ValueError."""
    what = place or "the setting"
    if not isinstance(value, dict):
        raise ValueError(f"{what}: an object is needed")  # noqa: TRY004  # every wrong setting is a ValueError
    wrong = next((name for name in value if names is not None and name not in names), None)
    if wrong is not None:
        raise ValueError(f"{what}: {wrong[:40]!r} is not known: use {', '.join(names or ())}")
    return value


def _texts(place: str, value: Any, most: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value) or len(value) > most:
        raise ValueError(f"{place}: a list of at most {most} texts is needed")
    return value


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError for a name that occurs twice: only the last would count."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:40]!r} occurs twice in one object")
        found[name] = value
    return found
