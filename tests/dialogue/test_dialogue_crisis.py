"""The crisis detector, as sentences that it must tell apart. Every sentence was written for this table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialogue.conversation import Role, Turn
from dialogue.crisis.detector import Reason, detect
from dialogue.crisis.normalise import normalise
from dialogue.crisis.rules import CrisisKind
from dialogue.loaders import load_conversations

SUICIDE, SELF_HARM, DANGER, THIRD, NONE = (
    CrisisKind.SUICIDE,
    CrisisKind.SELF_HARM,
    CrisisKind.DANGER,
    CrisisKind.THIRD_PERSON,
    CrisisKind.NONE,
)

SENTENCES = {
    "plain": [
        ("I want to die.", SUICIDE),
        ("I've been thinking about suicide a lot", SUICIDE),
        ("I feel like ending it all", SUICIDE),
        ("There's no reason to live.", SUICIDE),
        ("Everyone would be better off without me", SUICIDE),
        ("I wish I could go to sleep and never wake up.", SUICIDE),
        ("I have been saving up enough pills.", SUICIDE),
        ("I keep thinking about jumping in front of a train", SUICIDE),
        ("I started cutting again", SELF_HARM),
        ("I have urges to self-harm", SELF_HARM),
        ("My husband hits me when he drinks.", DANGER),
        ("He threatened to kill me.", DANGER),
        ("My dad is not breathing!", DANGER),
        ("I have thoughts of hurting my baby", DANGER),
    ],
    "no word of dying": [
        ("It would be easier for everyone if I wasn't here", SUICIDE),
        ("They'd all be happier if I was gone.", SUICIDE),
        ("I don't see the point anymore", SUICIDE),
        ("There's no point going on.", SUICIDE),
        ("I just want it all to stop", SUICIDE),
        ("I've got the pills out on the bed", SUICIDE),
        ("I can't do this, I have the tablets next to me", SUICIDE),
        ("There's a rope in the garage and I keep looking at it", SUICIDE),
        ("I've written the notes.", SUICIDE),
        ("I'm done. Goodbye everyone", SUICIDE),
        ("I wouldn't mind if a bus hit me", SUICIDE),
    ],
    "and words like these on other days": [
        ("It would be easier if I was gone for a week while they paint", NONE),
        ("My mom would be happier if I wasn't always late", NONE),
        ("I don't see the point of this meeting", NONE),
        ("I don't see the point in arguing with him any more", NONE),
        ("I want it all to stop raining on my one free day", NONE),
        ("I put my pills on the table so that I don't forget them", NONE),
        ("Goodbye, everyone was lovely", NONE),
        ("The rope next to me in the climbing hall was new", NONE),
    ],
    "spelling": [
        ("i wanna die", SUICIDE),
        ("I don’t want to be alive anymore.", SUICIDE),
        ("I dont see the point in living", SUICIDE),
        ("im going to k1ll myself tonight", SUICIDE),
        ("I want to k i l l m y s e l f", SUICIDE),
        ("s.u.i.c.i.d.e", SUICIDE),
        ("i feel suicidаl", SUICIDE),  # its last a is Cyrillic
        ("I want to unalive myself", SUICIDE),
        ("I want to dieeee", SUICIDE),
    ],
    "negated": [
        ("I don't want to die.", NONE),
        ("I'm not suicidal.", NONE),
        ("I would never kill myself.", NONE),
        ("I have no plans to kill myself", NONE),
        ("It's not that I don't want to live", NONE),
    ],
    "negated, and still a crisis": [
        ("I don't want to die, but I can't go on living", SUICIDE),
        ("I can't promise I won't kill myself", SUICIDE),
        ("I'm trying not to kill myself", SUICIDE),
        ("I won't kill myself tonight.", SUICIDE),
        ("I can't stop thinking about killing myself", SUICIDE),
        ("I never thought I would want to kill myself", SUICIDE),
    ],
    "sayings": [
        ("This homework is killing me", NONE),
        ("I'd die of embarrassment", NONE),
        ("I was so embarrassed that I wanted to die", NONE),
        ("I'm dying to see that film", NONE),
        ("That cake is to die for", NONE),
        ("My mom is going to kill me", NONE),
        ("I nearly killed myself laughing", NONE),
        ("I overdosed on chocolate", NONE),
        ("That speech was career suicide", NONE),
        ("I could kill for a coffee, I'm dead tired", NONE),
        ("This homework is killing me, and I want to kill myself", SUICIDE),
    ],
    "accidents, stories and everyday life": [
        ("I cut myself shaving", NONE),
        ("I burned myself on the stove", NONE),
        ("I watched a movie about suicide", NONE),
        ("I don't want to live with my parents", NONE),
        ("He beat me at chess", NONE),
        ("My dog died and I miss him", NONE),
        ("I feel so sad and lonely since she left", NONE),
    ],
    "somebody else": [
        ("My friend wants to kill himself.", THIRD),
        ("my sister said she wants to die", THIRD),
        ("My roommate is suicidal and I don't know what to do", THIRD),
        ("He tried to hang himself last week", THIRD),
        ("My therapist thinks I'm suicidal", SUICIDE),
        ("I told my best friend I want to die", SUICIDE),
    ],
    "losses": [
        ("My brother killed himself two years ago", NONE),
        ("My uncle committed suicide last spring.", NONE),
        ("We lost her to suicide.", NONE),
    ],
}
TABLE = [(text, kind) for rows in SENTENCES.values() for text, kind in rows]


@pytest.mark.parametrize(("text", "kind"), TABLE)
def test_the_kind_of_a_sentence(text: str, kind: CrisisKind) -> None:
    assert detect(text).kind is kind


@pytest.mark.parametrize(("text", "kind"), TABLE)
def test_capital_letters_and_accents_change_nothing(text: str, kind: CrisisKind) -> None:
    assert detect(text.upper()).kind is kind
    assert detect(text.lower()).kind is kind
    assert detect(text.replace("e", "é")).kind is kind


def test_evidence_and_what_was_dismissed_are_named() -> None:
    verdict = detect("I don't want to die. I just took all my pills!")
    assert [(one.rule, one.words) for one in verdict.evidence] == [("plan or means", "took all my pills")]
    assert verdict.urgent and verdict.is_crisis
    assert [(one.words, one.reason) for one in verdict.dismissed] == [("want to die", Reason.NEGATED)]


def turns(*texts: str) -> list[Turn]:
    """Seeker and supporter in turn."""
    return [Turn(Role.SUPPORTER if i % 2 else Role.SEEKER, text) for i, text in enumerate(texts)]


def test_yes_to_the_question_about_suicide_is_a_crisis_and_no_is_not() -> None:
    asked = turns("It all feels heavy.", "Are you having thoughts of suicide?")
    assert detect("Yes, sometimes.", asked).kind is SUICIDE
    assert detect("No, nothing like that.", asked).kind is NONE
    assert detect("Yes, sometimes.", turns("It all feels heavy.", "Are you sleeping?")).kind is NONE


def test_a_plan_after_an_earlier_crisis_is_one_although_its_words_alone_are_not() -> None:
    before = turns("I want to kill myself.", "I'm so glad you told me.")
    assert detect("I've decided. Goodbye.").kind is NONE
    verdict = detect("I've decided. Goodbye.", before)
    assert verdict.kind is SUICIDE and verdict.urgent
    calm = detect("Thank you for listening.", before)
    assert calm.kind is NONE and calm.earlier is SUICIDE


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    verdict = detect(text, turns(text.strip() or "x", "Do you want to die?"))
    assert verdict.is_crisis == bool(verdict.evidence)
    assert normalise(normalise(text)) == normalise(normalise(normalise(text)))


@given(st.sampled_from(TABLE), st.randoms(use_true_random=False))
def test_random_casing_changes_nothing(row: tuple[str, CrisisKind], random) -> None:
    text, kind = row
    assert detect("".join(random.choice((c.upper(), c.lower())) for c in text)).kind is kind


@given(st.text(alphabet=st.characters(codec="ascii", categories=("L", "Zs")), max_size=60))
def test_a_crisis_in_a_sentence_of_its_own_is_found_after_any_other(text: str) -> None:
    assert detect(f"{text}. I am going to kill myself.").kind is SUICIDE


def test_every_crisis_of_the_starter_conversations_is_found() -> None:
    crises = [conversation for conversation in load_conversations("starter") if conversation.id.startswith("crisis-")]
    assert len(crises) >= 3
    for conversation in crises:
        assert detect(conversation.turns[0].text).kind is not NONE, conversation.id
