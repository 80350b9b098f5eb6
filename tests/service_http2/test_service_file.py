"""`rapport serve` reads one YAML file: what it says is checked with its place, what it does not say has a default."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from reward_servers.service_config import HttpConfig, ServiceConfig, ServiceConfigError
from reward_servers.service_file import load_service
from reward_servers.serving import announcement, check_port

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


def test_the_announced_curl_shows_no_token() -> None:
    said = announcement(ServiceConfig(http=HttpConfig(host="0.0.0.0", port=8123, token="secret")))
    assert "secret" not in said and "$RAPPORT_REWARD_TOKEN" in said and "http://127.0.0.1:8123/v1/score" in said
