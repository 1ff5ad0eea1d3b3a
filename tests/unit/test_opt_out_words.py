"""Words that stop and start messages: what is a word, and what the setting CHAT4ALL_OPT_OUT may say."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.opt_out_policies import LONGEST_CONFIRMATION, REASONS, OptOutPolicies, policies_in
from schemas.opt_out_words import EVERYWHERE, LANGUAGES, LONGEST_TEXT, plain
from schemas.records import Choice
from schemas.settings import Settings, wrong

EVERY = [each for words in (EVERYWHERE, *LANGUAGES.values()) for each in (*words.stop, *words.start)]
AROUND = st.text(st.sampled_from(" \t\n.,;:!?¡¿'\"()[]-\u2013\u2014…*_~🙏🛑❤️\u200b\u200d\ufeff"), max_size=6)


def policies(wanted: Any) -> OptOutPolicies:
    return policies_in(json.dumps(wanted))


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("STOP", Choice.STOP),
        ("Stop.", Choice.STOP),
        ("/stop", Choice.STOP),
        (" PARAR! ", Choice.STOP),
        ("sair", Choice.STOP),
        ("Baja", Choice.STOP),
        ("¡BAJA!", Choice.STOP),
        ("ARRÊT", Choice.STOP),
        ("désabonner", Choice.STOP),
        ("De\u0301sabonner", Choice.STOP),
        ("\uff33\uff34\uff2f\uff30", Choice.STOP),  # letters of full width
        ("stop 🙏", Choice.STOP),
        ("Opt-out", Choice.STOP),
        ("opt  OUT", Choice.STOP),
        ("\u200bstop\u200b", Choice.STOP),
        ("Abmelden", Choice.STOP),
        ("start", Choice.RESUME),
        ("/start", Choice.RESUME),
        ("Voltar", Choice.RESUME),
        ("ALTA", Choice.RESUME),
        ("please stop the car", None),
        ("stop stop", None),
        ("don't stop", None),
        ("nonstop", None),
        ("/start promo", None),
        ("yes", None),
        ("", None),
        ("🛑", None),
        ("stop" + "!" * LONGEST_TEXT, None),
    ],
)
def test_a_word_is_the_whole_text(text: str, choice: Choice | None) -> None:
    found = policies_in("").of("anyone").word_in(text)
    assert (found[0] if found else None) is choice


@given(st.sampled_from(EVERY), AROUND, AROUND, st.booleans())
def test_what_surrounds_a_word_and_its_case_do_not_matter(word: str, before: str, after: str, upper: bool) -> None:
    text = before + (word.upper() if upper else word.title()) + after
    assert plain(text) == word


@given(st.sampled_from(EVERY), st.text(st.characters(categories=("L", "N")), min_size=1, max_size=20))
def test_another_word_beside_it_makes_it_a_text_like_any_other(word: str, other: str) -> None:
    policy = policies_in("").of("anyone")
    for text in (f"{word} {other}", f"{other} {word}", f"{word}{other}"):
        found = plain(text)
        assert policy.word_in(text) is None or found in EVERY


@given(st.text(max_size=LONGEST_TEXT + 5))
def test_the_plain_form_is_its_own_plain_form(text: str) -> None:
    found = plain(text)
    assert found is None or len(found) > LONGEST_TEXT or plain(found) == found
    assert len(text) <= LONGEST_TEXT or found is None


def test_the_built_in_words_are_plain_and_no_word_has_two_meanings() -> None:
    assert [word for word in EVERY if plain(word) != word] == []
    stops = {word for words in (EVERYWHERE, *LANGUAGES.values()) for word in words.stop}
    starts = {word for words in (EVERYWHERE, *LANGUAGES.values()) for word in words.start}
    assert stops & starts == set()


def test_each_tenant_has_its_languages_and_its_own_words() -> None:
    own = {"languages": ["pt"], "words": {"pt": {"stop": ["Chega!"], "start": ["Quero"]}}, "without": ["CANCELAR"]}
    found = policies({"acme": own, "beta": "off", "*": {"languages": ["en"]}})
    acme, beta, other = found.of("acme"), found.of("beta"), found.of("gamma")
    assert acme.word_in("chega") == (Choice.STOP, "pt")
    assert acme.word_in("quero") == (Choice.RESUME, "pt")
    assert acme.word_in("stop") == (Choice.STOP, ""), "it counts everywhere"
    assert (acme.word_in("cancelar"), acme.word_in("unsubscribe"), acme.word_in("baja")) == (None, None, None)
    assert (beta.word_in("stop"), beta.reasons) == (None, frozenset())
    assert (other.word_in("unsubscribe"), other.word_in("sair")) == ((Choice.STOP, "en"), None)


def test_a_word_that_starts_may_be_made_to_stop_only_without_its_first_meaning() -> None:
    wanted = {"without": ["voltar"], "words": {"pt": {"stop": ["voltar"]}}}
    assert policies({"*": wanted}).of("x").word_in("VOLTAR") == (Choice.STOP, "pt")
    with pytest.raises(ValueError, match=r"\*\.words\.pt\.stop: 'voltar' has the opposite meaning too"):
        policies({"*": wanted | {"without": []}})


def test_without_the_reason_stop_word_there_are_no_words() -> None:
    policy = policies({"*": {"reasons": ["blocked"]}}).of("x")
    assert (policy.word_in("stop"), policy.reasons) == (None, frozenset({"blocked"}))


def test_a_confirmation_is_in_the_language_of_the_word_or_in_the_first() -> None:
    texts = {"pt": {"stop": "Feito."}, "es": {"stop": "Hecho.", "start": "Bienvenido."}}
    policy = policies({"*": {"confirmations": texts}}).of("x")
    assert policy.confirmation(Choice.STOP, "es") == "Hecho."
    assert policy.confirmation(Choice.STOP, "") == "Feito."
    assert policy.confirmation(Choice.RESUME, "pt") == "Bienvenido."
    assert policies_in("").of("x").confirmation(Choice.STOP, "pt") is None


WRONG = {
    "[": "no JSON: ",
    "[]": "the setting: an object is needed",
    "[" * 100_000: "nested too deep",
    '{"a b": {}}': "'a b' is neither a tenant nor *",
    '{"a": {}, "a": {}}': "'a' occurs twice",
    '{"a": "on"}': 'a (or "off"): an object is needed',
    '{"a": {"language": []}}': "'language' is not known: use languages, words, without, confirmations, reasons",
    '{"a": {"languages": "pt"}}': "a.languages: a list of at most 32 texts is needed",
    '{"a": {"languages": ["tlh"]}}': "a.languages: there are words for en, pt, es, fr, de, it, nl, not for 'tlh'",
    '{"a": {"words": {"Portuguese": {}}}}': "a.words: 'Portuguese' is no code of a language",
    '{"a": {"words": {"pt": {"halt": []}}}}': "a.words.pt: 'halt' is not known: use stop, start",
    '{"a": {"words": {"pt": {"stop": ["?!"]}}}}': "a.words.pt.stop: '?!' is no word",
    '{"a": {"words": {"pt": {"stop": [5]}}}}': "a.words.pt.stop: a list of at most 100 texts is needed",
    '{"a": {"reasons": ["spam"]}}': "a.reasons: use some of stop_word, user_preferences, blocked, not_receiving",
    '{"a": {"confirmations": {"pt": {"stop": " "}}}}': "a.confirmations.pt.stop: a text of 1 to 1000 bytes",
    '{"a": {"confirmations": {"pt": {"stop": "\\ud800"}}}}': "a.confirmations.pt.stop: a text of 1 to 1000 bytes",
    json.dumps({"a": {"confirmations": {"pt": {"stop": "é" * 501}}}}): "a text of 1 to 1000 bytes",
    json.dumps({f"t{n}": {} for n in range(501)}): "501 tenants: at most 500 are allowed",
    " " * 1_000_000 + "{}": "1000002 bytes: at most 262144 are allowed",
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.items(), ids=[text[:40] for text in WRONG])
def test_a_wrong_setting_names_its_place(text: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"opt_out": text})
    assert sentence in wrong(caught.value)
    assert wrong(caught.value).startswith("CHAT4ALL_OPT_OUT: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["off", "pt", "stop", *REASONS]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["*", "a", "languages", "words", "without", "confirmations", "reasons", "pt", "stop"]),
            inner,
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_read_or_refused_with_a_sentence(found: Any) -> None:
    try:
        policy = policies_in(json.dumps(found)).of("a")
    except ValueError:
        return
    assert all(len(text.encode()) <= LONGEST_CONFIRMATION for text in policy.confirmations.values())
    assert policy.reasons <= set(REASONS)
