"""`rapport serve` as a person runs it: a process of its own, asked over HTTP, stopped by Ctrl-C."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import yaml
from hostile import Attack
from prometheus_client.parser import text_string_to_metric_families

from reward_servers.adapters import trl_reward, verl_reward
from reward_servers.adapters.from_environment import URL_VARIABLE, AdapterError
from reward_servers.client import RewardClient, RewardServerError
from reward_servers.protocol import TOKEN_VARIABLE, Score, ScoreRequest
from reward_servers.service_config import SCORER, TAGGER

pytestmark = pytest.mark.timeout(600)  # the first test also starts Ray and Serve, slowly on a busy machine

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-the-tests"
SEEKER = {"role": "user", "content": "My sister stopped talking to me."}
JSON_TYPE = {"Content-Type": "application/json"}
REPLY = "That must hurt. Do you know what happened between you?"


@dataclass
class Running:
    """The command's process. `gate` is the scorer's folder, see tests/service/service_models.py."""

    process: subprocess.Popen[str]
    url: str
    gate: Path
    lines: list[str] = field(default_factory=list)

    def said(self) -> str:
        return "".join(self.lines)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        response = httpx.post(self.url + path, json=body, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=90)
        assert response.status_code == 200, response.text
        return response.json()

    def score(self, reply: str, path: str = "/v1/score") -> dict[str, Any]:
        body = {"requests": [{"id": "a", "history": [SEEKER], "response": reply}]}
        return self.post(path, body)["results"][0]

    def counted(self, deployment: str, how: str) -> float:
        page = httpx.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "rapport_reward_model_items_total"
            and (sample.labels["deployment"], sample.labels["how"]) == (deployment, how)
        )

    def wait_held(self) -> None:
        until(lambda: list(self.gate.glob("held-*")), "the scorer holding a reply", 60)

    def clear_gate(self) -> None:
        for path in self.gate.iterdir():
            path.unlink()


def until(condition: Any, what: str, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {limit_s} s"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("serve")
    gate, port = folder / "gate", free_port()
    gate.mkdir()
    config = {
        "app_name": "test-serve",
        "start_timeout_s": 300,
        "http": {"port": port},
        "tagger": {"loader": "service_models:SeededTagger"},
        "scorer": {"loader": "service_models:SeededScorer", "folder": str(gate)},
    }
    (folder / "service.yaml").write_text(yaml.safe_dump(config))
    environment = {**os.environ, TOKEN_VARIABLE: TOKEN, "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "service")))  # workers import both
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "rapport.py"), "serve", str(folder / "service.yaml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    service = Running(process, f"http://127.0.0.1:{port}", gate)
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: service.lines.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        until(lambda: "Ctrl-C stops" in service.said() or process.poll() is not None, "the start", 400)
        assert process.poll() is None, service.said()
        yield service
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
        reader.join(10)


@pytest.fixture
def at_service(running: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setenv(URL_VARIABLE, running.url)
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    return running


def test_the_printed_curl_works_as_it_stands(running: Running) -> None:
    said = running.said()
    command = said[said.index("curl ") : said.index("\n\n", said.index("curl "))]
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, env={**os.environ, TOKEN_VARIABLE: TOKEN}
    )
    assert done.returncode == 0 and '"sentence_tactics"' in done.stdout, done.stdout + done.stderr
    assert TOKEN not in said


def test_every_route_says_the_same_of_a_reply(running: Running) -> None:
    score = running.score(REPLY)
    empathy = running.score(REPLY, "/v1/empathy")
    assert {key: score[key] for key in empathy} == empathy
    quality = running.score(REPLY, "/v1/quality")
    assert quality["quality"] == score["quality"] and set(quality["model_versions"]) == {SCORER}
    [tags] = running.post("/v1/tactics", {"requests": [{"id": "a", "response": REPLY}]})["results"]
    assert {key: score[key] for key in tags} == tags
    prompt = f"<|im_start|>user\n{SEEKER['content']}<|im_end|>\n<|im_start|>assistant\n"
    rewards = running.post(
        "/get_reward", {"query": [f"{prompt}{REPLY}<|im_end|>"], "prompts": [prompt], "labels": [""]}
    )
    assert rewards["rewards"] == [score["quality"]]
    assert rewards["extra_logs"]["advice_giving"] == [score["empathy"]["advice_giving"]]


def test_what_was_asked_before_is_not_computed_again(running: Running) -> None:
    texts = [f"Reply number {i}. Tell me more." for i in range(4)]
    first = [running.score(text) for text in texts]
    before = {(d, how): running.counted(d, how) for d in (TAGGER, SCORER) for how in ("computed", "kept")}
    assert [running.score(text) for text in texts] == first
    for deployment in (TAGGER, SCORER):
        assert running.counted(deployment, "computed") == before[deployment, "computed"]
        assert running.counted(deployment, "kept") == before[deployment, "kept"] + 4


def test_a_failure_is_computed_again(running: Running) -> None:
    before = running.counted(SCORER, "failed")
    for _ in range(2):
        assert running.score("POISON to the scorer.")["failure"]["kind"] == "internal"
    assert running.counted(SCORER, "failed") == before + 2


def test_equal_replies_in_flight_are_one_piece_of_work(running: Running) -> None:
    running.clear_gate()
    before = running.counted(SCORER, "joined"), running.counted(SCORER, "computed")
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(running.score, "GATE. All four of us wait.") for _ in range(4)]
        running.wait_held()
        time.sleep(0.5)  # for the others to arrive
        (running.gate / "open").touch()
        answers = [call.result() for call in calls]
    assert answers == [answers[0]] * 4 and "empathy" in answers[0]
    joined_or_kept = running.counted(SCORER, "joined") - before[0]
    assert running.counted(SCORER, "computed") == before[1] + 1
    assert joined_or_kept >= 1
    running.clear_gate()


# --- other trainers ---------------------------------------------------------------------------------------------------


def quality(running: Running, reply: str) -> float:
    [score] = RewardClient.over_http(running.url, TOKEN).score_sync([ScoreRequest("a", (SEEKER,), reply)])  # type: ignore[arg-type]
    assert isinstance(score, Score)
    return score.quality


def test_trl_gets_the_same_scores_for_messages_and_for_texts(at_service: Running) -> None:
    replies = [REPLY, "<think>\nhm\n</think>\n\nI am here."]
    expected = [quality(at_service, REPLY), quality(at_service, "I am here.")]
    messages: list[Any] = [[{"role": "assistant", "content": reply}] for reply in replies]
    prompts: list[Any] = [[{"role": "system", "content": "Be kind."}, SEEKER]] * 2
    assert trl_reward.reward(prompts=prompts, completions=messages, completion_ids=[[1], [2]], step=3) == expected
    assert trl_reward.reward([SEEKER["content"]] * 2, replies) == expected


def test_no_score_is_an_error_in_trl_and_never_a_number(at_service: Running) -> None:
    with pytest.raises(RewardServerError, match="completion 1"):
        trl_reward.reward([SEEKER["content"]] * 2, ["Fine.", "POISON."])


def verl_data(reply_ids: list[int], history: list[dict[str, str]] | None) -> Any:
    import numpy as np
    import torch
    from verl import DataProto

    extra = {} if history is None else {"history": np.array(history, dtype=object)}  # as parquet gives a list
    return DataProto.from_dict(
        tensors={
            "responses": torch.tensor([reply_ids]),
            "attention_mask": torch.ones(1, len(reply_ids) + 2, dtype=torch.long),
        },
        non_tensors={
            "data_source": np.array(["talk"], dtype=object),
            "reward_model": np.array([{"ground_truth": ""}], dtype=object),
            "extra_info": np.array([extra], dtype=object),
        },
    )


def test_verls_own_reward_manager_gets_the_same_scores(at_service: Running, tiny_model: Path) -> None:
    from omegaconf import OmegaConf
    from transformers import AutoTokenizer
    from verl.trainer.ppo.reward import load_reward_manager

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    function = {"path": verl_reward.__file__, "name": "compute_score", "reward_kwargs": {"url": at_service.url}}
    manager_config = {"source": "register", "name": "naive"}
    config = OmegaConf.create({"reward": {"custom_reward_function": function, "reward_manager": manager_config}})
    ids = tokenizer(REPLY)["input_ids"]
    said = tokenizer.decode(ids, skip_special_tokens=True)

    async def ask() -> tuple[dict[str, Any], Any]:
        manager = load_reward_manager(config, tokenizer)
        result = await manager.run_single(verl_data(ids, [SEEKER]))
        failed = await asyncio.gather(manager.run_single(verl_data(ids, None)), return_exceptions=True)
        return result, failed[0]

    result, error = asyncio.run(ask())
    assert result["reward_score"] == quality(at_service, said)
    assert len(result["reward_extra_info"]) == 8
    assert "history" in str(error) and type(error).__name__ == AdapterError.__name__


def test_trls_own_trainer_takes_a_step_with_the_same_scores(
    at_service: Running, tiny_model: Path, tmp_path: Path
) -> None:
    """One step of GRPO on one prompt with four replies of a random model, by TRL itself."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    seen: list[tuple[Any, list[float]]] = []

    @functools.wraps(trl_reward.reward)
    def reward(prompts: Any, completions: Any, **others: Any) -> list[float]:
        rewards = trl_reward.reward(prompts, completions, **others)
        seen.append((completions, rewards))
        return rewards

    arguments = GRPOConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, num_generations=4, logging_steps=1,
        max_completion_length=12, use_cpu=True, bf16=False, report_to="none", save_strategy="no", seed=1,
    )  # fmt: skip
    prompt = [{"role": "system", "content": "Be kind."}, SEEKER]
    data = Dataset.from_list([{"prompt": prompt, "extra_info": i} for i in range(2)])
    trainer = GRPOTrainer(model=str(tiny_model), reward_funcs=reward, args=arguments, train_dataset=data)
    trainer.train()
    [(completions, rewards)] = seen
    assert rewards == [quality(at_service, completion[0]["content"]) for completion in completions]
    assert len(rewards) == 4 and trainer.state.global_step == 1
    assert trainer.state.log_history[0]["reward"] == pytest.approx(sum(rewards) / 4)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_thousand_hostile_requests_change_nothing(running: Running) -> None:
    """Malformed, oversized, hostile and unauthorised, over the real port; hostile.py says what must hold of each."""
    before = running.score(REPLY)
    authorised = {"Authorization": f"Bearer {TOKEN}"}
    document = httpx.get(f"{running.url}/openapi.json", headers=authorised, timeout=60).json()
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json", headers=authorised)
    attack = Attack(schema, document, authorised)
    attack.run(710)
    stranger = Attack(schema, document, {"Authorization": "Bearer guessed"})
    stranger.run(125)
    oversized = [
        httpx.post(running.url + "/v1/score", content=b"[" * size, headers={**authorised, **JSON_TYPE}, timeout=60)
        for size in (9 * 2**20, 2**20, 50_000) * 20
    ]
    print(f"{attack.sent + stranger.sent + len(oversized)} requests: {attack.statuses} {stranger.statuses}")
    assert attack.sent + stranger.sent + len(oversized) >= 10_000
    assert set(attack.statuses) <= {200, 400, 413, 415} and set(stranger.statuses) == {401}
    assert {response.status_code for response in oversized} == {400, 413}
    assert running.score(REPLY) == before


# --- the end: this test stops the service -----------------------------------------------------------------------------


def test_ctrl_c_answers_what_is_in_flight_and_exits_with_0(running: Running) -> None:
    running.clear_gate()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(running.score, "GATE. The last reply.")
        running.wait_held()
        running.process.send_signal(signal.SIGINT)
        until(lambda: "stopping" in running.said(), "the drain", 90)
        time.sleep(1)
        (running.gate / "open").touch()
        assert "empathy" in call.result(timeout=60)
    assert running.process.wait(90) == 0, running.said()
    until(lambda: "stopped" in running.said(), "the last word", 60)
    assert "Traceback" not in running.said()
    with pytest.raises(httpx.ConnectError):
        running.score(REPLY)
