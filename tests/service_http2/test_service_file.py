"""`rapport serve` reads one YAML file: what it says is checked with its place, what it does not say has a default."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from evaluation.judge.calibration import JudgeBelowFloorError
from reward_servers.commands import UpdateError, serve
from reward_servers.protocol import TOKEN_VARIABLE
from reward_servers.service_config import (
    REWARD_MODEL_LOADER,
    DeploymentConfig,
    HttpConfig,
    ServiceConfig,
    ServiceConfigError,
)
from reward_servers.service_file import load_service
from reward_servers.serving import (
    _stop_signals,
    announcement,
    check_port,
    head_elsewhere,
    http_changed,
    lacking_gpus,
)

SHIPPED = Path(__file__).parents[2] / "configs" / "serve"


def written(folder: Path, text: str) -> Path:
    path = folder / "service.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    assert load_service(path).http is not None


def test_there_is_a_shipped_configuration_and_it_holds_the_defaults() -> None:
    assert load_service(SHIPPED / "demo.yaml") == load_service(None) == ServiceConfig(http=HttpConfig())


def test_what_the_file_says_is_changed_and_nothing_else(tmp_path: Path) -> None:
    config = load_service(written(tmp_path, "tagger: {replicas: 3, num_gpus: 1}\nhttp: {port: 9000}\n"))
    default = ServiceConfig().tagger
    assert (config.tagger.replicas, config.tagger.num_gpus, config.tagger.loader) == (3, 1.0, default.loader)
    assert isinstance(config.tagger.num_gpus, float)
    assert config.http == HttpConfig(port=9000) and config.scorer == ServiceConfig().scorer


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_service(written(tmp_path, "# nothing\n")) == load_service(None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tager: {}", "unknown key tager (did you mean tagger?)"),
        ("tagger: {replica: 2}", "unknown key tagger.replica (did you mean replicas?)"),
        ("tagger: {replicas: two}", "tagger.replicas is 'two', but must be a whole number"),
        ("tagger: {replicas: true}", "tagger.replicas is True, but must be a whole number"),
        ("tagger: {replicas: 0}", "tagger: replicas is 0, but must be at least 1"),
        ("scorer: {scaling: {max_replicas: -1}}", "scorer.scaling: scaling.max_replicas is -1"),
        ("scorer: {scaling: {max_replica: 4}}", "unknown key scorer.scaling.max_replica (did you mean max_replicas?)"),
        ("scorer: {max_batch_size: 32}", "unknown key scorer.max_batch_size"),
        ("http: {host: 0.0.0.0}", "http.token"),
        ("http: null", "http must be a group of keys"),
        ("http: {token: 123}", "http.token is 123, but must be a text"),
        ("- a", "the top must be a group of keys"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_told_with_file_key_and_remedy(tmp_path: Path, text: str, complaint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ServiceConfigError) as refused:
        load_service(path)
    assert str(path) in str(refused.value) and complaint in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServiceConfigError, match=r"none\.yaml"):
        load_service(tmp_path / "none.yaml")


def test_a_port_in_use_is_told_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = ServiceConfig(http=HttpConfig(port=taken.getsockname()[1]))
        with pytest.raises(ServiceConfigError, match="--port"):
            check_port(config)
    check_port(config)


def test_the_first_signal_drains_and_the_second_meets_the_handlers_from_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with _stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10) and signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_announced_curl_shows_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServiceConfig(http=HttpConfig(host="0.0.0.0", port=8123, token="secret"))
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    said = announcement(config)
    assert "secret" not in said and "$RAPPORT_REWARD_TOKEN" in said and "http://127.0.0.1:8123/v1/score" in said
    monkeypatch.setenv(TOKEN_VARIABLE, "another")  # with which the curl as it stands would be refused
    assert f"first: export {TOKEN_VARIABLE}=" in announcement(config) and f"first: export {TOKEN_VARIABLE}" not in said


# --- the token, and what the command checks before Ray ----------------------------------------------------------------


def dry_run(path: Path, *more: str) -> dict[str, dict[str, object]]:
    """What `rapport serve --dry-run` says of a file; its errors are raised."""
    app = typer.Typer()
    app.command()(serve)
    done = CliRunner().invoke(app, [str(path), "--dry-run", *more])
    if done.exception is not None:
        raise done.exception
    return yaml.safe_load(done.output)


def test_the_files_token_wins_and_the_variables_stands_in_for_one(tmp_path: Path) -> None:
    """As `servers.token` of `rapport train` does."""
    for text in ("http: {host: 0.0.0.0}\n", "http: {port: 9000}\n", ""):
        http = load_service(written(tmp_path, text), token="outside").http
        assert http is not None and http.token == "outside"
    http = load_service(written(tmp_path, "http: {token: inside}\n"), token="outside").http
    assert http is not None and http.token == "inside"


def test_a_token_outside_lets_others_reach_the_port_by_file_or_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    open_to_all = written(tmp_path, "http: {host: 0.0.0.0}\n")
    with pytest.raises(ServiceConfigError, match=TOKEN_VARIABLE):
        dry_run(open_to_all)
    monkeypatch.setenv(TOKEN_VARIABLE, "outside")
    assert dry_run(open_to_all)["http"]["token"] == "(set)"
    assert dry_run(written(tmp_path, "http: {port: 9000}\n"), "--host", "0.0.0.0")["http"]["port"] == 9000


@pytest.mark.parametrize("token", ["two words", "schlüssel", "line\n"])
def test_a_token_that_no_header_carries_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ServiceConfigError, match="printable ASCII") as refused:
        HttpConfig(token=token)
    assert token not in str(refused.value)


def test_folders_are_from_where_the_command_runs_and_not_from_where_a_replica_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = load_service(written(tmp_path, "scorer: {folder: runs/scorer}\nquality: {folder: ~/mvc}\n"))
    assert config.quality is not None and config.tagger.folder == ""
    assert (config.scorer.folder, config.quality.folder) == (
        str(tmp_path / "runs/scorer"),
        str(tmp_path / "home/mvc"),
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("scorer: {folder: nowhere}", "empathy-scorer: folder is '.*nowhere', but must be a folder that is there"),
        ("quality: {folder: .}", "one with turn_scorer.json in it"),
        ("scorer: {folder: .}", "one with scorer.safetensors in it"),
        (f'quality: {{loader: "{REWARD_MODEL_LOADER}"}}', "quality: folder is '', but must be set: it holds config"),
        ('scorer: {loader: "no_such.module:Class"}', "there is no no_such.module"),
        ('scorer: {loader: "reward_servers.no_such:Class"}', "there is no reward_servers.no_such"),
    ],
)
def test_a_model_that_is_not_there_is_told_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServiceConfigError, match=complaint):
        dry_run(written(tmp_path, text))


def test_an_update_has_to_be_told_where_the_servers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    app = typer.Typer()
    app.command()(serve)
    refused = CliRunner().invoke(app, [str(written(tmp_path, "")), "--update"])
    assert isinstance(refused.exception, UpdateError) and "RAY_ADDRESS" in str(refused.exception)


def test_an_update_neither_moves_the_port_nor_forgets_the_token() -> None:
    """Serve's proxy stays where it is: without this an update for loopback would open a public port to everybody."""
    running = HttpConfig("0.0.0.0", 8000, "secret")
    assert http_changed(running, HttpConfig("0.0.0.0", 8000, "another")) == ""
    assert "0.0.0.0:8000 and cannot move to 127.0.0.1:8000" in http_changed(running, HttpConfig())
    assert TOKEN_VARIABLE in http_changed(HttpConfig(token="secret"), HttpConfig())
    assert "no HTTP" in http_changed(None, HttpConfig())


def test_a_judge_that_missed_its_floor_is_told_before_ray_starts(tmp_path: Path) -> None:
    report = {"judge": {}, "passed": False, "problems": ["mean kappa is 0.10"]}
    (tmp_path / "calibration.json").write_text(json.dumps(report), encoding="utf-8")
    loader = "evaluation.judge.scorer:JudgeScorer"
    with pytest.raises(JudgeBelowFloorError, match=r"mean kappa is 0\.10"):
        dry_run(written(tmp_path, f'scorer: {{loader: "{loader}", folder: {tmp_path}}}'))


def test_a_machine_with_too_few_gpus_is_told_how_many_it_has() -> None:
    half = DeploymentConfig("encoder", replicas=3, num_gpus=0.5)
    assert lacking_gpus(ServiceConfig(tagger=half), {"CPU": 4.0, "GPU": 2.0}) == ""
    assert "ask for 1.5 GPUs, and this machine has 0" in lacking_gpus(ServiceConfig(tagger=half), {"CPU": 4.0})


def test_http_is_on_the_head_node_and_a_command_on_another_one_is_told_so() -> None:
    head = {"NodeID": "a", "Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {"node:__internal_head__": 1}}
    nodes = [{"NodeID": "b", "Alive": True, "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 4.0}}, head]
    assert head_elsewhere(HttpConfig(), nodes, "a") == ""
    assert "--host 10.0.0.1" in head_elsewhere(HttpConfig(), nodes, "b")
    assert head_elsewhere(HttpConfig(host="10.0.0.1", token="t"), nodes, "b") == ""
