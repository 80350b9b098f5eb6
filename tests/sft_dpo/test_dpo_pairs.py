"""Reading pairs: what is bad and why, the two sides of the split, and the prompt that both replies share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialogue.conversation import Conversation, Role, Turn
from dialogue.loaders import DataError
from sft.dpo.config import PairsConfig
from sft.dpo.pairs import Pair, read_pairs, split_pairs, tokenise_pairs
from sft.readers.ledger import Note, Reason, Report
from sft.tokens import ChatTokens, TokenConfig

GOOD: dict[str, Any] = {"prompt": "I am sad.", "chosen": "I am sorry.", "rejected": "So what?"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def read(folder: Path, *records: Any, max_bad_share: float = 1.0) -> Report[Pair]:
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8")
    return read_pairs(PairsConfig(str(file), max_bad_share=max_bad_share))


def test_both_ways_to_write_a_pair(tmp_path: Path) -> None:
    history = [user("Hi."), assistant("Hello."), user("I am sad. ")]
    other = {"history": history, "chosen": [assistant("Oh.")], "rejected": "So?", "safety_violation": True}
    first, second = read(tmp_path, GOOD, other | {"id": "two"}).examples
    assert first.conversation.turns == (Turn(Role.SEEKER, "I am sad."),)
    assert (first.chosen, first.rejected, first.violation) == ("I am sorry.", "So what?", False)
    assert [turn.text for turn in second.conversation.turns] == ["Hi.", "Hello.", "I am sad."]
    assert (second.id, second.chosen, second.violation) == ("pair:two", "Oh.", True)


BAD: list[tuple[dict[str, Any] | str, Reason, str]] = [
    ("{", Reason.MALFORMED, "not JSON"),
    ({"prompt": "Hi.", "chosen": "A."}, Reason.MISSING_FIELD, "no 'rejected'"),
    ({"chosen": "A.", "rejected": "B."}, Reason.MISSING_FIELD, "no 'history' or 'prompt'"),
    (GOOD | {"rejected": " I am sorry. "}, Reason.IDENTICAL_REPLIES, "expected two replies"),
    (GOOD | {"chosen": "  "}, Reason.EMPTY_TEXT, "'chosen' is empty"),
    (GOOD | {"history": [user("Hi.")]}, Reason.MALFORMED, "both 'history' and 'prompt'"),
    (GOOD | {"prompt": [user("Hi."), assistant("Hello.")]}, Reason.UNKNOWN_ROLE, "ends with the assistant"),
    (GOOD | {"prompt": [{"role": "system", "content": "Be kind."}]}, Reason.UNKNOWN_ROLE, "pairs.system"),
    (GOOD | {"prompt": []}, Reason.EMPTY_DIALOGUE, "a list of messages"),
    (GOOD | {"chosen": [user("Hi.")]}, Reason.MALFORMED, "one assistant message"),
    (GOOD | {"safety_violation": "yes"}, Reason.UNKNOWN_LABEL, "expected true or false"),
    (
        {"chosen": [user("Hi."), assistant("A.")], "rejected": [user("Ho."), assistant("B.")]},
        Reason.MALFORMED,
        "differ",
    ),
    ({"chosen": [user("Hi."), assistant("A.")], "rejected": "B."}, Reason.MALFORMED, "expected a conversation"),
    ({"chosen": [assistant("A."), user("Hi.")], "rejected": [user("Hi.")]}, Reason.UNKNOWN_ROLE, "ends with the user"),
    (
        {"prompt": "Hey.", "chosen": [user("Hi."), assistant("A.")], "rejected": [user("Hi."), assistant("B.")]},
        Reason.MALFORMED,
        "expected the same messages, or none",
    ),
    (GOOD | {"safety_violations": True}, Reason.MALFORMED, "did you mean 'safety_violation'"),
]


@pytest.mark.parametrize(("record", "reason", "message"), BAD)
def test_a_bad_record_has_a_reason(tmp_path: Path, record: Any, reason: Reason, message: str) -> None:
    good = [GOOD | {"prompt": f"Day {number}."} for number in range(3)]
    report = read(tmp_path, *good[:2], record, good[2])
    assert [(bad.place[-6:], bad.reason) for bad in report.bad] == [("line 3", reason)]
    assert message in report.bad[0].found and len(report.examples) == 3
    with pytest.raises(DataError, match=r"1 of 4 records are bad .*more than the allowed share of 0\.01.*line 3"):
        read(tmp_path, *good[:2], record, good[2], max_bad_share=0.01)


def test_whole_conversations_need_no_history(tmp_path: Path) -> None:
    """As many hub datasets have them; the prompt that some add says the same again."""
    before = [user("Hi."), assistant("Hello."), user("I am sad.")]
    one = {"chosen": [*before, assistant("Oh.")], "rejected": [*before, assistant("So?")]}
    short = {"chosen": [user("Ah."), assistant("Oh.")], "rejected": [user("Ah."), assistant("So?")], "prompt": "Ah."}
    first, second = read(tmp_path, one, short).examples
    assert [turn.text for turn in first.conversation.turns] == ["Hi.", "Hello.", "I am sad."]
    assert [turn.text for turn in second.conversation.turns] == ["Ah."]
    assert {(pair.chosen, pair.rejected) for pair in (first, second)} == {("Oh.", "So?")}


def test_the_same_pair_twice_counts_once(tmp_path: Path) -> None:
    again = GOOD | {"score": 3, "chosen_id": "x"}
    report = read(tmp_path, GOOD, again, GOOD | {"id": "b"}, GOOD | {"chosen": "Poor you."})
    assert len(report.examples) == 2 and report.bad_by_reason() == {Reason.DUPLICATE_PAIR: 2}
    assert "the same words as in 'pair:" in report.bad[1].found


def test_an_id_is_a_text_or_a_number_and_names_one_pair(tmp_path: Path) -> None:
    report = read(tmp_path, GOOD | {"id": 7}, GOOD | {"id": 7, "prompt": "Hi."}, GOOD | {"id": [7], "prompt": "Ho."})
    assert [pair.id for pair in report.examples] == ["pair:7"]
    assert report.bad_by_reason() == {Reason.DUPLICATE_ID: 1, Reason.MALFORMED: 1}


def test_messages_in_a_row_are_joined(tmp_path: Path) -> None:
    report = read(tmp_path, GOOD | {"prompt": [assistant("Welcome."), user("Hi."), user("I am sad.")]})
    assert [turn.text for turn in report.examples[0].conversation.turns] == ["Hi. I am sad."]
    assert report.notes == {Note.OPENING_DROPPED: 1, Note.TURNS_JOINED: 1}


def test_a_folder_of_datasets_reads_the_same(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([GOOD, GOOD | {"prompt": "Hi."}]).save_to_disk(str(tmp_path / "set"))
    report = read_pairs(PairsConfig(str(tmp_path / "set")))
    assert [pair.conversation.turns[0].text for pair in report.examples] == ["I am sad.", "Hi."]
    with pytest.raises(DataError, match="there is no such file"):
        read_pairs(PairsConfig(str(tmp_path / "other.jsonl")))


def pair(opening: str, number: int) -> Pair:
    turns = (Turn(Role.SEEKER, opening), Turn(Role.SUPPORTER, "Hm."), Turn(Role.SEEKER, f"And {number}."))
    return Pair(Conversation(f"{opening}/{number}", turns), "A", "B")


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=20), st.integers(0, 5))
def test_no_conversation_is_on_both_sides(openings: list[str], seed: int) -> None:
    several = [pair(opening, number) for number, opening in enumerate(openings)]
    if len(set(openings)) < 2:
        with pytest.raises(DataError, match="at least 2"):
            split_pairs(several, 0.2, seed, "here")
        return
    train, dev = split_pairs(several, 0.2, seed, "here")
    assert train and dev and sorted([*train, *dev], key=several.index) == several
    opens = [{p.conversation.turns[0].text for p in side} for side in (train, dev)]
    assert not opens[0] & opens[1]


def test_both_replies_follow_the_same_prompt(tokenizer: Any) -> None:
    long = Turn(Role.SEEKER, "My cat was ill " * 20)
    turns = (long, Turn(Role.SUPPORTER, "Oh no."), Turn(Role.SEEKER, "He is better."))
    one = Pair(Conversation("c", turns), "I am so glad to hear that.", "Fine.")
    whole = tokenise_pairs([one], ChatTokens(tokenizer, TokenConfig(400))).pairs[0]
    start = whole.chosen.replies[0].start
    assert whole.rejected.replies[0].start == start and whole.chosen.ids[:start] == whole.rejected.ids[:start]
    assert tokenizer.decode(whole.rejected.ids[start:]) == f"Fine.{tokenizer.eos_token}"
    cut = tokenise_pairs([one], ChatTokens(tokenizer, TokenConfig(40))).pairs[0]
    assert cut.chosen.turns == (turns[2], Turn(Role.SUPPORTER, one.chosen)) and len(cut.chosen.ids) <= 40
    too_long = Pair(Conversation("d", (long,)), "A.", "B.")
    both = tokenise_pairs([one, too_long], ChatTokens(tokenizer, TokenConfig(40)))
    assert (len(both.pairs), both.too_long) == (1, 1)
    with pytest.raises(DataError, match=r"none of 1 pairs fits pairs\.max_tokens"):
        tokenise_pairs([too_long], ChatTokens(tokenizer, TokenConfig(40)))
