"""Readers: right roles and labels from every shape of the data; bad records are counted, named and never guessed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dialogue.conversation import Role, Turn
from dialogue.loaders import DataError
from sft.emotions import LABELS, Emotion
from sft.examples import Loss, Source, Split
from sft.readers.empathetic_dialogues import read_empathetic_dialogues
from sft.readers.esconv import read_esconv
from sft.readers.goemotions import read_goemotions
from sft.readers.ledger import Note, ReadReport, Reason
from sft.strategies import Strategy

SEEKER, SUPPORTER = Role.SEEKER, Role.SUPPORTER
HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"


def rows(conversation: str, feeling: str, *said: tuple[int, str]) -> list[str]:
    return [f"{conversation},{n},{feeling},it was,{who},{text},5|5|5," for n, (who, text) in enumerate(said, start=1)]


def write(folder: Path, name: str, *lines: str) -> Path:
    file = folder / name
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return file


def talk(report: ReadReport, place: int = 0) -> list[tuple[Role, str]]:
    return [(turn.role, turn.text) for turn in report.examples[place].conversation.turns]


# --- EmpatheticDialogues


@pytest.mark.parametrize("workers", [(0, 1), (1, 0), (411, 389), (389, 411)])
def test_who_speaks_first_is_the_seeker_whatever_the_worker_ids(tmp_path: Path, workers: tuple[int, int]) -> None:
    """The report took a worker's number for a role, and swapped seeker and supporter in half of the data."""
    a, b = workers
    file = write(tmp_path, "train.csv", HEADER, *rows("c", "afraid", (a, "A dog_comma_ big"), (b, "Oh!"), (a, "Yes.")))
    report = read_empathetic_dialogues(file)
    assert talk(report) == [(SEEKER, "A dog, big"), (SUPPORTER, "Oh!"), (SEEKER, "Yes.")]
    example = report.examples[0]
    assert example.emotions == {0: (Emotion.FEAR,)} and example.losses == {Loss.LM, Loss.EMOTION}
    assert example.source is Source.EMPATHETIC_DIALOGUES and example.source.non_commercial


def test_rows_are_put_in_the_order_of_their_numbers_and_one_persons_rows_are_joined(tmp_path: Path) -> None:
    said = rows("c", "sad", (7, "I lost it."), (3, "What?"), (3, "Tell me."), (7, "My ring."))
    report = read_empathetic_dialogues(write(tmp_path, "x.csv", HEADER, *reversed(said)))
    assert talk(report) == [(SEEKER, "I lost it."), (SUPPORTER, "What? Tell me."), (SEEKER, "My ring.")]
    assert report.notes[Note.TURNS_JOINED] == 1


def test_quotes_are_plain_characters_tabs_are_fine_and_test_files_have_one_more_column(tmp_path: Path) -> None:
    lines = [HEADER, *rows("c", "joyful", (0, 'He said "hi'), (1, '"Nice'))]
    lines[1] += ",hit:0|hit:1"
    for name, text in (("test.csv", lines), ("test.tsv", [line.replace(",", "\t") for line in lines])):
        report = read_empathetic_dialogues(write(tmp_path, name, *text), Split.TEST)
        assert talk(report) == [(SEEKER, 'He said "hi'), (SUPPORTER, '"Nice')]
        assert report.examples[0].split is Split.TEST


def test_a_word_without_a_class_feeds_only_the_lm_and_a_turn_without_a_reply_only_the_head(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "train.csv",
        HEADER,
        *rows("a", "nostalgic", (0, "Old days."), (1, "Ah.")),
        *rows("b", "angry", (0, "Grr.")),
        *rows("c", "nostalgic", (0, "Old days.")),
    )
    report = read_empathetic_dialogues(tmp_path)
    assert [example.losses for example in report.examples] == [{Loss.LM}, {Loss.EMOTION}]
    assert (report.records, report.left_out, report.notes[Note.FEELING_UNMAPPED]) == (3, 1, 2), file


GOOD = rows("good", "sad", (0, "Hm."), (1, "Oh."))


@pytest.mark.parametrize(
    ("bad", "reason", "said"),
    [
        (rows("c", "blue", (0, "a"), (1, "b")), Reason.UNKNOWN_LABEL, "emotion 'blue'"),
        (rows("c", "sad", (0, "a"), (1, "b"), (2, "c")), Reason.TOO_MANY_WORKERS, "workers 0, 1, 2"),
        (rows("c", "sad", (0, "a"), (1, "b"))[1:], Reason.MISSING_UTTERANCE, "utterances [2]; expected 1 to 1"),
        (rows("c", "sad", (0, "a")) * 2, Reason.MISSING_UTTERANCE, "utterance 1 is there twice"),
        (rows("c", "sad", (0, "a"), (1, " ")), Reason.EMPTY_TEXT, "'utterance' is empty"),
        (["c,1,sad,it was,0,a,5,,x,y"], Reason.MALFORMED, "10 columns; expected 8"),
        (["c,1,sad"], Reason.MALFORMED, "3 columns"),
        (["c,one,sad,it was,0,a,5,"], Reason.MALFORMED, "utterance_idx is 'one'"),
        ([*rows("c", "sad", (0, "a")), "c,2,angry,it was,1,b,5,"], Reason.ROWS_DISAGREE, "angry, sad"),
    ],
)
def test_a_bad_conversation_is_left_out_with_its_reason_and_line(
    tmp_path: Path, bad: list[str], reason: Reason, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, "train.csv", HEADER, *GOOD, *bad)
    with caplog.at_level(logging.WARNING):
        report = read_empathetic_dialogues(file, max_bad_share=0.5)
    assert [example.id for example in report.examples] == ["good"]
    assert report.bad_by_reason() == {reason: 1}
    assert said in str(report.bad[0]) and f"{file}, line " in str(report.bad[0])
    assert "1 of 2 records are bad" in caplog.text
    with pytest.raises(DataError) as caught:
        read_empathetic_dialogues(file)
    for part in (str(file), "line ", said, "1 of 2 records", "0.01", reason.value):
        assert part in str(caught.value)


def test_the_line_named_is_that_of_the_bad_row(tmp_path: Path) -> None:
    file = write(tmp_path, "train.csv", HEADER, *GOOD, *rows("c", "sad", (0, "a"), (1, "")))
    with pytest.raises(DataError, match=r"train\.csv, line 5: 'utterance' is empty"):
        read_empathetic_dialogues(file)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "train.csv", HEADER.replace("speaker_idx,", ""), *GOOD)
    with pytest.raises(DataError, match=r"train\.csv, line 1: missing column speaker_idx; the columns are conv_id"):
        read_empathetic_dialogues(file)


def ed_object(**changes: Any) -> str:
    turns = [{"role": "speaker", "text": "A dog."}, {"role": "listener", "text": "Oh!"}]
    return json.dumps({"conv_id": "c", "emotion": "afraid", "split": "train", "turns": turns} | changes)


def test_json_lines_hold_all_splits_and_name_the_roles(tmp_path: Path) -> None:
    file = write(tmp_path, "conversations.jsonl", ed_object(), ed_object(conv_id="d", split="test"))
    assert talk(read_empathetic_dialogues(tmp_path)) == [(SEEKER, "A dog."), (SUPPORTER, "Oh!")]
    assert [example.id for example in read_empathetic_dialogues(file, Split.TEST).examples] == ["d"]
    with pytest.raises(DataError, match="no example of split valid in 2 records"):
        read_empathetic_dialogues(file, Split.VALID)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (ed_object(split="dev"), Reason.UNKNOWN_SPLIT),
        (ed_object(turns=[]), Reason.EMPTY_DIALOGUE),
        (ed_object(turns=None), Reason.MISSING_FIELD),
        (ed_object(turns=[{"role": "user", "text": "a"}]), Reason.UNKNOWN_ROLE),
        (ed_object(turns=[{"role": "listener", "text": "a"}]), Reason.EMPTY_DIALOGUE),
        (ed_object(turns=["a"]), Reason.MALFORMED),
        (ed_object(turns=[{"role": "speaker", "text": "half \ud83d"}]), Reason.MALFORMED),
        (ed_object(conv_id="good"), Reason.DUPLICATE_ID),
        ('{"conv_id": "c", ', Reason.MALFORMED),
        ("7", Reason.MALFORMED),
    ],
)
def test_bad_json_lines(tmp_path: Path, line: str, reason: Reason) -> None:
    file = write(tmp_path, "x.jsonl", ed_object(conv_id="good"), line)
    report = read_empathetic_dialogues(file, max_bad_share=0.5)
    assert report.bad_by_reason() == {reason: 1} and report.bad[0].place == f"{file}, line 2"


# --- ESConv


def said(speaker: str, text: str, strategy: str | None = None) -> dict[str, Any]:
    return {"speaker": speaker, "annotation": {"strategy": strategy} if strategy else {}, "content": text}


DIALOG = [
    said("supporter", "Hello!", "Others"),
    said("seeker", "I lost my job.\n"),
    said("seeker", "Today."),
    said("supporter", "You must feel crushed.", "Reflection of feelings"),
    said("supporter", "What happened?", "Question"),
    said("seeker", "Cuts."),
]
ESCONV_TURNS = [
    (SEEKER, "I lost my job. Today."),
    (SUPPORTER, "You must feel crushed. What happened?"),
    (SEEKER, "Cuts."),
]


def esconv_file(folder: Path, *entries: dict[str, Any], copies: int = 30) -> Path:
    """Entries first, then good ones, so that each split has some."""
    file = folder / "ESConv.json"
    file.write_text(json.dumps([*entries, *({"dialog": DIALOG} for _ in range(copies))]), encoding="utf-8")
    return file


def every_split(source: Path) -> list[ReadReport]:
    return [read_esconv(source, split) for split in Split]


def test_the_label_of_a_reply_is_its_first_messages_strategy(tmp_path: Path) -> None:
    report = read_esconv(esconv_file(tmp_path))
    assert talk(report) == ESCONV_TURNS
    assert report.examples[0].strategies == {1: Strategy.REFLECTION}
    assert report.examples[0].losses == {Loss.LM, Loss.STRATEGY}
    assert report.notes == {Note.OPENING_DROPPED: 30, Note.TURNS_JOINED: 60, Note.SEVERAL_STRATEGIES: 30}


def test_the_rebuilt_lines_and_the_original_give_the_same_examples_in_the_same_splits(tmp_path: Path) -> None:
    turns = [
        {"role": "supporter", "text": "Hello!", "strategies": ["Others"]},
        {"role": "seeker", "text": "I lost my job. Today.", "strategies": None},
        {
            "role": "supporter",
            "text": "You must feel crushed. What happened?",
            "strategies": ["Reflection of feelings", "Question"],
        },
        {"role": "seeker", "text": "Cuts.", "strategies": None},
    ]
    lines = write(tmp_path, "x.jsonl", *(json.dumps({"conv_id": n, "turns": turns}) for n in range(30)))
    for rebuilt, original in zip(every_split(lines), every_split(esconv_file(tmp_path)), strict=True):
        assert rebuilt.examples == original.examples


def test_splits_of_a_file_without_any_are_disjoint_and_whole(tmp_path: Path) -> None:
    sides = [{example.id for example in report.examples} for report in every_split(esconv_file(tmp_path))]
    assert [len(side) for side in sides] == [24, 3, 3] and len(set.union(*sides)) == 30


@pytest.mark.parametrize(
    ("dialog", "reason"),
    [
        ([said("seeker", "a"), said("supporter", "b", "Direct Guidance")], Reason.UNKNOWN_LABEL),
        ([said("seeker", "a"), said("supporter", "b")], Reason.MISSING_FIELD),
        ([said("speaker", "a"), said("listener", "b", "Question")], Reason.UNKNOWN_ROLE),
        ([said("seeker", " "), said("supporter", "b", "Question")], Reason.EMPTY_TEXT),
        ([], Reason.EMPTY_DIALOGUE),
    ],
)
def test_bad_dialogues(tmp_path: Path, dialog: list[dict[str, Any]], reason: Reason) -> None:
    file = esconv_file(tmp_path, {"dialog": dialog})
    report = read_esconv(file, max_bad_share=0.1)
    assert report.bad_by_reason() == {reason: 1} and report.bad[0].place == f"{file}, entry 0"
    with pytest.raises(DataError, match=rf"entry 0.*\[{reason}\]"):
        read_esconv(file)


def test_a_name_for_two_strategies_leaves_the_turn_without_a_label(tmp_path: Path) -> None:
    dialog = [said("seeker", "a"), said("supporter", "b", "Providing Suggestions or Information")]
    reports = every_split(esconv_file(tmp_path, {"dialog": dialog}))
    (example,) = [e for report in reports for e in report.examples if e.id == "esconv:0"]
    assert example.losses == {Loss.LM} and reports[0].notes[Note.STRATEGY_UNLABELLED] == 1


# --- GoEmotions


def test_goemotions_feeds_the_emotion_head_only(tmp_path: Path) -> None:
    write(tmp_path, "labels.txt", *LABELS)
    write(
        tmp_path, "train.tsv", 'He said "no\u2028way\t3\ta1', "Wow, thanks!\t15,26,27\ta2", "The door is open.\t27\ta3"
    )
    report = read_goemotions(tmp_path)
    assert [example.losses for example in report.examples] == [{Loss.EMOTION}] * 2
    assert report.examples[0].conversation.turns == (Turn(SEEKER, 'He said "no\u2028way'),)
    assert report.examples[1].emotions == {0: (Emotion.GRATITUDE, Emotion.SURPRISE)}
    assert (report.records, report.left_out) == (3, 1)
    assert report.notes == {Note.NOTHING_TO_LEARN: 1, Note.NEUTRAL_IGNORED: 1}
    assert not report.examples[0].source.non_commercial


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("text\t28\tid", Reason.UNKNOWN_LABEL),
        ("text\t-1\tid", Reason.UNKNOWN_LABEL),
        ("text\t1,\tid", Reason.UNKNOWN_LABEL),
        ("text\t²\tid", Reason.UNKNOWN_LABEL),
        ("text\tjoy\tid", Reason.UNKNOWN_LABEL),
        ("text\t1", Reason.MALFORMED),
        ("a\ttab\t1\tid", Reason.MALFORMED),
        (" \t1\tid", Reason.EMPTY_TEXT),
        ("text\t1\tgood", Reason.DUPLICATE_ID),
    ],
)
def test_bad_rows_of_goemotions(tmp_path: Path, line: str, reason: Reason) -> None:
    file = write(tmp_path, "train.tsv", "Fine.\t17\tgood", line)
    report = read_goemotions(file, max_bad_share=0.5)
    assert report.bad_by_reason() == {reason: 1} and report.bad[0].place == f"{file}, line 2"
    with pytest.raises(DataError, match="line 2"):
        read_goemotions(file)


def test_labels_in_another_order_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "labels.txt", *sorted(LABELS))
    write(tmp_path, "test.tsv", "Fine.\t17\tgood")
    with pytest.raises(DataError, match=r"labels\.txt: label 20 is not GoEmotions' own"):
        read_goemotions(tmp_path, Split.TEST)


# --- any source


READERS: list[Callable[..., ReadReport]] = [read_empathetic_dialogues, read_esconv, read_goemotions]


@pytest.mark.parametrize("read", READERS)
def test_sources_that_are_not_there_or_not_readable(tmp_path: Path, read: Callable[..., ReadReport]) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: there is no such file"):
        read(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="nobody/nothing: `datasets` could not open it"):
        read("nobody/nothing")
    latin = tmp_path / "latin"
    latin.write_bytes(b"conv_id,utterance_idx,context,speaker_idx,utterance\nc,1,sad,0,caf\xe9\n")
    with pytest.raises(DataError, match=r"latin, after line 0: not UTF-8"):
        read(latin)
    empty = write(tmp_path, "empty.tsv")
    with pytest.raises(DataError):
        read(empty)


def test_a_share_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_bad_share is 2"):
        read_goemotions(write(tmp_path, "one.tsv", "a\t1\tb"), max_bad_share=2)


HUB_ROWS: list[tuple[Callable[..., ReadReport], list[dict[str, Any]], list[tuple[Role, str]]]] = [
    (
        read_empathetic_dialogues,
        [
            {"conv_id": "c", "utterance_idx": n, "context": "sad", "speaker_idx": who, "utterance": text}
            for n, who, text in ((1, 9, "Hm_comma_ bad"), (2, 4, "Oh."))
        ],
        [(SEEKER, "Hm, bad"), (SUPPORTER, "Oh.")],
    ),
    (
        read_esconv,
        [
            {
                "text": json.dumps(
                    {
                        "dialog": [
                            {"speaker": "usr", "text": "Hm."},
                            {"speaker": "sys", "text": "Oh.", "strategy": "Others"},
                        ]
                    }
                )
            }
        ],
        [(SEEKER, "Hm."), (SUPPORTER, "Oh.")],
    ),
    (read_goemotions, [{"text": "Hm.", "labels": [25, 27], "id": "x"}], [(SEEKER, "Hm.")]),
]


@pytest.mark.parametrize(("read", "rows_", "turns"), HUB_ROWS)
def test_what_datasets_opens_is_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable, rows_: list[dict], turns: list[tuple[Role, str]]
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows_set = datasets.Dataset.from_list(rows_)
    datasets.DatasetDict({"validation": rows_set}).save_to_disk(str(tmp_path / "saved"))
    rows_set.save_to_disk(str(tmp_path / "single"))
    (tmp_path / "files").mkdir()
    rows_set.to_parquet(str(tmp_path / "files" / "validation.parquet"))
    for folder in ("saved", "single", "files"):
        report = read(tmp_path / folder, Split.VALID)
        assert talk(report) == turns and report.examples[0].split is Split.VALID
    with pytest.raises(DataError, match="no split test; it has validation"):
        read(tmp_path / "saved", Split.TEST)


line_of_anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(line_of_anything | st.sampled_from(["a\t3\tb", "x\t27\ty", "z\t2,4\tw"]), max_size=8))
def test_every_line_of_any_tsv_is_used_left_out_or_bad(tmp_path: Path, lines: list[str]) -> None:
    file = write(tmp_path, "fuzz.tsv", "Fine.\t17\tgood", *lines)
    report = read_goemotions(file, max_bad_share=1)
    assert report.records == 1 + sum(bool(line) for line in lines)
    assert report.records == len(report.examples) + report.left_out + len(report.bad)


utterance_line = st.builds("c,{},sad,p,{},text,5,".format, st.integers(1, 3), st.integers(0, 2))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(line_of_anything | utterance_line, max_size=6))
def test_no_line_breaks_the_csv_reader(tmp_path: Path, lines: list[str]) -> None:
    report = read_empathetic_dialogues(write(tmp_path, "fuzz.csv", HEADER, *GOOD, *lines), max_bad_share=1)
    assert report.records == len(report.examples) + report.left_out + len(report.bad)


spoken = st.tuples(st.sampled_from([0, 1]), st.text("ab c", min_size=1).map(str.strip).filter(bool))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(spoken, min_size=1, max_size=6), st.permutations([17, 4]))
def test_any_order_of_speakers_gives_alternating_turns_with_all_words(
    tmp_path: Path, messages: list[tuple[int, str]], workers: list[int]
) -> None:
    lines = rows("c", "sad", *((workers[who], text) for who, text in messages))
    turns = talk(read_empathetic_dialogues(write(tmp_path, "any.csv", HEADER, *lines)))
    assert [role for role, _ in turns] == [SEEKER if n % 2 == 0 else SUPPORTER for n in range(len(turns))]
    assert " ".join(text for _, text in turns) == " ".join(text for _, text in messages)
