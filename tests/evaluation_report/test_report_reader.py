"""The reader's data: the right tactics on the right sentences, faults, filters and their order, and the budget."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from report_cases import HOSTILE, LOOP, PROMPT, QUIET, STRANGER, TALK

from dialogue.tactics import TACTICS
from evaluation.report.faults import Fault, faults_of_group, repeats_itself
from evaluation.report.groups import Kind, groups_of
from evaluation.report.reader import as_script, parts_of, reader_data, select
from evaluation.report.run_files import read_run
from evaluation.report.views import views


@pytest.fixture
def run(run_folder):
    return read_run(run_folder)


@pytest.fixture
def data(run):
    return json.loads(as_script(reader_data([run])))


def named(parts):
    return [(text, [TACTICS[i].value for i in tactics]) for text, tactics in parts]


def test_each_sentence_has_its_own_tactics(run):
    assert named(parts_of(run.samples[1])) == [
        ("That sounds hard.", ["validation", "paraphrasing"]),
        (" ", []),
        ("What helps you rest?", ["questioning"]),
    ]


def test_the_parts_join_to_the_reply(run):
    for reply in run.samples:
        assert "".join(text for text, _ in parts_of(reply)) == reply.text


def test_a_sentence_that_comes_twice_is_found_at_both_places(run):
    tactics = [tactics for _, tactics in named(parts_of(run.samples[4]))]
    assert tactics == [["empowerment"], [], ["empowerment"], [], ["empowerment"]]


def test_sentences_that_are_not_in_the_text_are_shown_as_they_were_tagged(run):
    reply = replace(run.samples[1], text="Something else.")
    assert [text for text, _ in parts_of(reply)] == ["That sounds hard.", "What helps you rest?"]


def test_a_group_stands_with_the_best_reward_first(data):
    group = data["groups"][1]
    assert [(reply["label"], reply["reward"]) for reply in group["replies"]] == [
        ("rollout 2", 0.4), ("rollout 3", 0.2), ("rollout 1", -1.5)
    ]  # fmt: skip
    assert named(group["replies"][0]["parts"])[0] == ("That sounds hard.", ["validation", "paraphrasing"])


def test_before_and_after_stand_side_by_side(data):
    group = data["groups"][0]
    assert group["kind"] == "held out"
    assert [reply["label"] for reply in group["replies"]] == ["before 1", "before 2", "after 1", "after 2"]
    assert group["gain"] == pytest.approx(0.75)
    assert [TACTICS[i] for i in group["previous"]] == ["advice", "questioning"]


def test_the_history_comes_from_the_data_and_only_where_it_fits(run, data):
    by_prompt = {group["prompt"]: group for group in data["groups"]}
    assert by_prompt[STRANGER]["place"] is None
    place = by_prompt[PROMPT]["place"]
    assert data["talks"][place["talk"]] == [turn.text for turn in TALK.turns] and place["turn"] == 3
    other = replace(
        run, samples=tuple(replace(reply, seeker="Changed since.") for reply in run.samples), evaluations=()
    )
    assert all(group["place"] is None for group in reader_data([other])["groups"])


def test_faults(run):
    groups = {(group.step, group.prompt_id): group for group in groups_of(run) if group.kind is Kind.TRAINING}
    assert groups[1, PROMPT].faults == ((Fault.LEAKED,), (), ())
    assert groups[1, STRANGER].faults == ((Fault.EMPTY,), (Fault.REPEATS,), (Fault.TRUNCATED,))
    assert groups[2, STRANGER].faults == ((Fault.COPY,), (Fault.COPY,), ())


def test_a_reply_that_breaks_a_safety_rule_comes_before_the_most_dismissing_one(run):
    harmful = ("I hear you.", "Go ahead and do it.")
    talks = [replace(run.samples[0], text=" ".join(harmful), sentences=harmful), *run.samples[1:]]
    unsafe = replace(run, samples=tuple(talks))
    assert groups_of(unsafe)[1].faults[0] == (*groups_of(run)[1].faults[0], Fault.UNSAFE)
    assert orders(unsafe)["safety"][:2] == (1, 2)


def test_two_empty_replies_are_no_copies(run):
    empty = run.samples[3]
    assert faults_of_group([empty, empty]) == [(Fault.EMPTY,), (Fault.EMPTY,)]


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        (QUIET, False),
        (LOOP, True),
        ("and then I and then I and then I and then I and then I", True),
        ("I hear you. I hear that it was a long week, and that nobody asked. I hear how tired you are of it.", False),
        ("Yes. Yes.", False),
    ],
)
def test_what_counts_as_repeating(run, text, repeats):
    sentences = tuple(f"{part.strip()}." for part in text.split(".") if part.strip())
    assert repeats_itself(replace(run.samples[0], text=text, sentences=sentences)) is repeats


def orders(run):
    return {view.key: view.order for view in views(groups_of(run))}


def test_filters(run):
    """Groups in order: 0 held out, 1 and 2 of step 1, 3 and 4 of step 2."""
    found = orders(run)
    assert found["all"] == (0, 1, 2, 3, 4)
    assert found["gain"] == (3, 1, 2, 4)
    assert found["held-out-gain"] == found["held-out-loss"] == (0,)
    assert found["lowest"] == (3, 1, 2, 4)
    assert found["safety"][0] == 2  # no rule is broken in this run, so the most dismissing reply decides
    assert found["leaks"] == (1,)
    assert found["degenerate"] == (2, 4)
    assert found["empty"] == found["cut-off"] == found["repeats"] == (2,)
    assert found["copies"] == (4,)


def test_the_page_gets_the_same_filters(run, data):
    assert {view["key"]: tuple(view["order"]) for view in data["views"]} == orders(run)


def test_a_budget_keeps_the_telling_groups_in_order(run):
    long = [
        replace(reply, step=step, text=f"{reply.text} {step} " + "word " * 200)
        for step in range(1, 101)
        for reply in run.samples
    ]
    groups = groups_of(replace(run, samples=tuple(long), evaluations=()))
    kept = select(groups, budget=100_000)
    assert 5 < len(kept) < 40 < len(groups)
    assert [group.step for group in kept] == sorted(group.step for group in kept)
    assert max(groups, key=lambda group: group.gain or 0) in kept
    assert min(groups, key=lambda group: group.lowest or 0) in kept
    assert any(Fault.LEAKED in faults for group in kept for faults in group.faults)
    assert max(group.step for group in kept) > 50


def test_all_groups_are_kept_where_there_is_room(run):
    groups = groups_of(run)
    assert select(groups, 10**9) == groups
    assert len(select(groups, 1)) == 1
    assert select([], 10) == []


def test_the_embedded_data_is_safe_and_complete(run):
    script = as_script(reader_data([run]))
    assert not set("<>&\u2028\u2029") & set(script)
    texts = [
        "".join(text for text, _ in reply["parts"])
        for group in json.loads(script)["groups"]
        for reply in group["replies"]
    ]
    assert HOSTILE in texts


def test_numbers_that_do_not_exist_are_null(run):
    samples = (replace(run.samples[0], reward=float("nan")), *run.samples[1:])
    data = json.loads(as_script(reader_data([replace(run, samples=samples)])))
    values = [reply["reward"] for reply in data["groups"][1]["replies"]]
    assert None in values and 0.4 in values
