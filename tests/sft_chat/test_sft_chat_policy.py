"""What reaches the seeker, whatever the model wrote: resources, no hidden markup, no invented numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialogue.crisis.detector import Verdict, detect
from dialogue.crisis.rules import CrisisKind
from sft.chat.hidden import CLOSE, OPEN, TAGS, strip_hidden, without_echo
from sft.chat.policy import LISTENING, contacts_in, show
from sft.chat.resources import Match, ResourceError, load_resources
from sft.chat.style import Persona, Style, StyleError, Tone, parse_style

BOOK = load_resources()
US = BOOK.find("en-US").resources
SUICIDAL = detect("I want to kill myself.")
CALM = detect("I miss my friend.")
KINDS = [kind for kind in CrisisKind if kind is not CrisisKind.NONE]

# What a model may write: any text, and texts with tags, numbers and names of services in them.
TAGGED = [OPEN, CLOSE, "<REFLECTION >", "< / reflection", "<refl", "<think>", "</think>", "<tone:warm>", "<|x|>"]
NUMBERED = [
    "Please call 988.",
    "Call 1-800-273-8255!",
    "988",
    "116 123",
    "text HOME to 741741",
    "findahelpline.com",
]
SAID = ["You should rest.", "\n", "reflection: she is sad", "I hear you.", "Reach Samaritans at 116123, they listen."]
PIECES = st.sampled_from([*TAGGED, *NUMBERED, *SAID])
WRITTEN = st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=12).map(" ".join))


@given(WRITTEN)
def test_no_hidden_markup_reaches_the_seeker(written: str) -> None:
    for verdict in (CALM, SUICIDAL):
        text = show(written, verdict, US).text
        assert TAGS.search(text) is None
        assert text.strip()


@given(WRITTEN, st.sampled_from(BOOK.names()), st.sampled_from(KINDS), st.booleans())
def test_in_a_crisis_every_line_is_there_once_and_no_other_number(
    written: str, locale: str, kind: CrisisKind, urgent: bool
) -> None:
    resources = BOOK.find(locale).resources
    text = show(written, Verdict(kind, (), urgent), resources).text
    found = contacts_in(text)
    for line in resources.lines_for(kind):
        assert sum(found[key] for key in contacts_in(line.contact)) == 1, text
    assert resources.emergency in text
    ours = [resources.emergency, *(line.contact for line in resources.lines)]
    assert set(found) <= {key for one in ours for key in contacts_in(one)}, text


@pytest.mark.parametrize("written", ["", "   ", "....", "\ufffd\ufffd\ufffd", "no no no no no no no", "12 34 56"])
def test_without_usable_text_the_fixed_reply_stands_alone(written: str) -> None:
    shown = show(written, SUICIDAL, US)
    assert shown.fixed and shown.text.startswith(US.phrases["fixed"]) and "988" in shown.text
    assert show(written, CALM, US).text == LISTENING


def test_lines_that_the_model_gave_are_not_added_again() -> None:
    shown = show("I'm so sorry it hurts this much. Please call 988. I'm staying with you.", SUICIDAL, US)
    assert shown.added == ("- Crisis Text Line: text HOME to 741741",)
    assert shown.text.count("988") == 1 and not shown.fixed


def test_a_number_that_the_model_made_up_or_advised_against_is_taken_out() -> None:
    shown = show("It makes sense that you hurt. Call 1-800-555-0199 now. Do not call 988.", SUICIDAL, US)
    assert "555" not in shown.text
    assert "Do not" not in shown.text
    assert shown.text.count("988") == 1


def test_a_sentence_that_is_said_over_and_over_is_shown_once() -> None:
    assert show("I am so sorry. I am so sorry! What happened? I am so sorry.", CALM, US).text == (
        "I am so sorry. What happened?"
    )


@pytest.mark.parametrize(
    "written",
    [
        "Okay, go ahead and do it then.",
        "The easiest way to die is quick, my friend.",
        "Dying is both a blessing and a curse for us.",
        "To your best friend, I want to die. I'm sure of that.",
        "I'm sorry for the loss, I'm sure you're right.",
        "That's a good thing to have. It is safe with you.",
        "I'm glad to hear that you feel that way.",
    ],
)
def test_a_text_that_encourages_harm_is_never_shown(written: str) -> None:
    shown = show(written, SUICIDAL, US)
    assert shown.fixed and written not in shown.text


@pytest.mark.parametrize(
    "written",
    [
        "Are you thinking about suicide? You can tell me.",
        "I'm so sorry that you feel like dying.",
        "I'm glad you want to talk about wanting to die.",
        "You're right to tell somebody. That's a brave thing to say.",
    ],
)
def test_a_reply_that_names_the_danger_is_shown(written: str) -> None:
    shown = show(written, SUICIDAL, US)
    assert not shown.fixed and written in shown.text


def test_help_comes_before_the_models_words() -> None:
    text = show("That sounds so heavy to carry.", detect("I want to die"), US).text
    assert text.index("988") < text.index("That sounds so heavy")


def test_the_emergency_number_comes_first_where_it_is_urgent() -> None:
    urgent = show("I am here with you.", detect("I took all my pills"), US).text
    other = show("I am here with you.", detect("I want to die"), US).text
    assert urgent.index("911") < urgent.index("988")
    assert other.index("988") < other.index("911")


@pytest.mark.parametrize(
    "written", ["我在这里陪着你。", "ここにいるよ、話してね。", "ฉันอยู่ตรงนี้กับคุณ", "Я рядом с тобой."]
)
def test_languages_without_blanks_between_words_are_text_too(written: str) -> None:
    assert show(written, CALM, US).text == written
    assert show(written[:1] * 24, CALM, US).fixed  # one sign over and over is none


def test_everyday_talk_is_left_as_it_is() -> None:
    text = "That sounds lonely. In 2019 I called 555 too. What do you miss most?"
    assert show(f"{OPEN}sad{CLOSE} {text}", CALM, US).text == text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("<reflection>sad</reflection>I hear you.", "I hear you."),
        ("<Reflection note='x'>sad\nstill</ REFLECTION >\nI hear you.", "I hear you."),
        ("I hear you. <reflection>sad, and never closed", "I hear you."),
        ("sad, never opened</reflection> I hear you.", "I hear you."),
        ("<refl<reflection>x</reflection>ection>secret</reflection>I hear you.", "I hear you."),
        ("Reflection: they feel sad\nI hear you.", "I hear you."),
        ("<tone:warm><persona:best friend> I hear you.<|im_end|>", "I hear you."),
        ("I hear you. <refl", "I hear you."),
        ("I <3 you, 2 < 3.", "I <3 you, 2 < 3."),
    ],
)
def test_what_is_hidden_is_stripped(written: str, shown: str) -> None:
    assert strip_hidden(written) == shown


def test_a_hidden_sentence_that_is_repeated_without_its_markup_is_left_out() -> None:
    hidden = "They seem to feel grief. Name the feeling."
    assert without_echo("They seem to feel GRIEF!  I am sorry, that is hard.", [hidden]) == "I am sorry, that is hard."


@pytest.mark.parametrize(
    ("asked", "locale", "match", "note"),
    [
        ("en-US", "en-US", Match.EXACT, ""),
        ("en_gb.UTF-8", "en-GB", Match.EXACT, ""),
        ("de-LU", "de", Match.LANGUAGE, "no crisis lines for 'de-LU'"),
        ("xx-YY", "international", Match.DEFAULT, "no crisis lines for 'xx-YY'"),
        (None, "international", Match.DEFAULT, "no locale given"),
    ],
)
def test_an_unknown_locale_falls_back_and_says_so(asked: str | None, locale: str, match: Match, note: str) -> None:
    found = BOOK.find(asked)
    assert (found.resources.locale, found.match) == (locale, match)
    assert found.note.startswith(note) and bool(found.note) == bool(note)


def test_numbers_of_one_country_are_never_offered_in_another() -> None:
    for language in ("en", "de", "international"):
        assert [line.contact for line in BOOK.find(language).resources.lines] == ["findahelpline.com"]


def test_a_file_of_ones_own_goes_over_the_shipped_one(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        "phrases: {en: {fixed: Stay with me.}}\n"
        "locales: {en-US: {emergency: '911', lines: [{name: Campus line, how: call, contact: 555-0100}]}}\n"
    )
    book = load_resources(file)
    assert str(book.find("en-US").resources.lines[0]) == "- Campus line: call 555-0100"
    assert book.find("en-GB").resources.phrases["fixed"] == "Stay with me."


LINES = "[{name: A, how: call, contact: '988'}]"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected keys and values"),
        ("lines: {}", "unknown key 'lines'"),
        ("default: fr", "default is 'fr'"),
        ("locales: {en-US: {emergency: 911, lines: []}}", "lines: expected a list"),
        (f"locales: {{en-US: {{emergency: 911, lines: {LINES}}}}}", "emergency: expected a text"),
        (f"locales: {{America: {{emergency: '911', lines: {LINES}}}}}", "expected a locale"),
        ("locales: {en-US: {emergency: '1', lines: [{name: A, how: b, contact: 988}]}}", "contact: expected a text"),
        ("locales: {en-US: {emergency: '1', lines: [{name: A, how: b, contact: soon}]}}", "neither a number"),
        ("locales: {en-US: {emergency: '1', lines: [{name: A, how: b, contact: '988', kinds: [x]}]}}", "kinds: exp"),
        ("locales: {en-US: {emergency: '1', lines: [{name: A, how: b, contact: '988', kinds: [danger]}]}}", "every"),
        ("phrases: {en: {emergency: call now}}", r"expected \{emergency\}"),
        ("locales: {", "cannot be read as YAML"),
    ],
)
def test_a_faulty_file_of_resources_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(content)
    with pytest.raises(ResourceError, match=message) as error:
        load_resources(file)
    assert str(file) in str(error.value)


def test_style_tokens_are_those_of_the_report() -> None:
    assert Style(Tone.WARM, Persona.BEST_FRIEND).prefix() == "<tone:warm><persona:best friend> "
    assert parse_style("calm", "Good_Listener") == Style(Tone.CALM, Persona.GOOD_LISTENER)
    assert parse_style("none", None).prefix() == ""
    with pytest.raises(StyleError, match=re.escape("tone 'angry': expected none, or one of warm")):
        parse_style("angry", None)
