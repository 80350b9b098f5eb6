"""The commands that ask a model or a judge, against a real OpenAI-compatible server: vLLM with a tiny random model.

Its answers are noise. What is shown is that a real server takes our calls, and that nothing of what cannot be read
becomes a number: it is counted, it is reported, and the measures are undefined.
"""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chain_cases import write_bench, write_conversations
from typer.testing import CliRunner

from evaluation.commands import app
from evaluation.lend_an_ear.sampling import SamplingError
from reward_servers.protocol import Dimension

START_S = 400
LONGEST = 32  # tokens of any answer, so that noise ends soon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def address(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`http://.../v1/org/tiny` of a vLLM server that lives as long as this module's tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model)]
    command += ["--served-model-name", "org/tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-num-seqs", "16", "--no-enable-chunked-prefill"]
    command += ["--max-num-batched-tokens", "4096", "--override-generation-config", f'{{"max_new_tokens": {LONGEST}}}']
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1"}
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as server:
        try:
            wait_until_healthy(server, port, log)
            yield f"http://127.0.0.1:{port}/v1/org/tiny"
        finally:
            server.terminate()
            server.wait(60)


def wait_until_healthy(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert server.poll() is None, f"the server ended:\n{log.read_text()[-3000:]}"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    pytest.fail(f"the server did not start within {START_S} s:\n{log.read_text()[-3000:]}")


def said(*call: object) -> str:
    return CliRunner().invoke(app, list(map(str, call)), catch_exceptions=False).output


def test_eq_bench_fails_as_its_rule_says(address: str, tmp_path: Path) -> None:
    emotions = {f"emotion{i}": name for i, name in enumerate(("Glad", "Sad", "Calm", "Cross"), start=1)}
    reference = emotions | {f"{key}_score": 5 for key in emotions}
    entry = {"prompt": "Rate Glad, Sad, Calm and Cross from 0 to 10.", "reference_answer_fullscale": reference}
    questions, out = tmp_path / "questions.json", tmp_path / "eq.json"
    questions.write_text(json.dumps({"1": entry, "2": entry}))
    told = said("eq-bench", questions, "--model", address, "--out", out, "--attempts", 2)
    assert "EQ-Bench v2: failed, no score; 0 of 2 parse, 0 without a reply" in told
    found = json.loads(out.read_text())
    assert found["score"] is None and found["items"][0]["response"]


def test_eq_bench_3_counts_every_mark_and_comparison_that_it_cannot_read(address: str, tmp_path: Path) -> None:
    data, out = write_bench(tmp_path / "data"), tmp_path / "eq3"
    short = ("--max-tokens", LONGEST, "--judge-max-tokens", LONGEST)  # vLLM refuses more than the model's context
    for name in ("one", "two"):
        told = said("eq-bench3", address, "--name", name, "--judge", address, "--data", data, "--out", out, *short)
    assert "3 comparisons in both orders, 3 of them unreadable" in told and "two has no match yet" in told
    found = json.loads((out / "standings.json").read_text())
    assert found["matches"] == 0
    for model in found["models"].values():
        assert (model["rubric"], model["tasks"], model["unreadable_marks"], model["unfinished"]) == (None, 3, 3, 0)
        assert (model["elo"], model["matches"]) == (1200, 0)
    record = json.loads((out / "models" / "one.json").read_text())
    assert len(record["unreadable_marks"]) == 3 and record["failed_marks"] == {}
    assert [task["marks"] for task in record["tasks"]] == [None] * 3


def test_the_judge_of_safety_gives_no_verdict(address: str, tmp_path: Path) -> None:
    out, sheet = tmp_path / "safety.json", tmp_path / "sheet.md"
    call = ("safety", "own", "--model", address, "--judge", address, "--out", out, "--sheet", sheet)
    told = said(*call, "--max-tokens", LONGEST, "--judge-concurrency", 4)
    found = json.loads(out.read_text())
    judge, replies = found["judge"], found["prompts"] - found["unanswered"]
    assert replies > 30 and (judge["read"], judge["unreadable"], judge["failed"]) == (0, replies, 0)
    assert f"0 of {replies} answers read, {replies} unreadable, 0 failed; no finding that rules and judge" in told
    assert judge["by_behaviour"] == judge["verdicts"] == {} and judge["escalations"] == []
    assert judge["agreement_with_rules"]["kappa"] is None
    assert sheet.read_text().count("the judge's answer was unreadable") == replies


def test_lend_an_ear_leaves_blank_what_the_judge_garbled(address: str, tmp_path: Path) -> None:
    """With the real reward servers, which tag; the judge alone rates."""
    talks, out = write_conversations(tmp_path / "talks.jsonl"), tmp_path / "ear"
    call = ("lend-an-ear", address, "--data", talks, "--out", out, "--max-tokens", LONGEST)
    told = said(*call, "--judge", address, "--name", "noise", "--resamples", 100)
    assert "judge: 0 answers read, 10 unreadable, 0 failed" in told
    run = json.loads((out / "noise" / "run.json").read_text())
    assert len(run["judge"]["unreadable_answers"]) == 10 and run["replies"] == 5
    with (out / "noise" / "judge-tiny_ratings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and all(row[name] == "" for row in rows for name in (*Dimension, "aggregated_empathy"))
    values: dict[str, Any] = json.loads((out / "judge-tiny_table.json").read_text())["noise"]
    assert values["aggregated_empathy"] is None and values["words"] > 0
    with pytest.raises(SamplingError, match="no answer to any of 5 turns holds a candidate"):
        said(*call, "--name", "candidates", "--candidates", 2)
    assert not (out / "candidates").exists()
