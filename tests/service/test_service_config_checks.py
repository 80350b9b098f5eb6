"""A service that cannot run is refused when its configuration is built, with the field, the value and a remedy."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from reward_servers.client import RetryPolicy
from reward_servers.encoder import EncoderNotFoundError, encoder_folder
from reward_servers.failures import RewardServerError, root_cause
from reward_servers.lora_tagger.folder import LoraTaggerFolderError
from reward_servers.service_config import (
    TAGGER_LOADER,
    DeploymentConfig,
    HttpConfig,
    LimitsConfig,
    ServiceConfig,
    ServiceConfigError,
    TaggerKind,
    tagger_deployment,
)

LOADER = "package.module:Class"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DeploymentConfig("package.module"), "package.module:Class"),
        (lambda: DeploymentConfig(LOADER, replicas=0), "replicas is 0, but must be at least 1"),
        (lambda: DeploymentConfig(LOADER, num_gpus=-1), "num_gpus is -1"),
        (lambda: DeploymentConfig(LOADER, health_timeout_s=0), "health_timeout_s is 0"),
        (lambda: HttpConfig(host="0.0.0.0"), "http.token"),
        (lambda: HttpConfig(port=0), "http.port is 0"),
        (lambda: LimitsConfig(max_response_chars=0), "limits.max_response_chars is 0"),
        (lambda: ServiceConfig(app_name=""), "app_name"),
        (
            lambda: ServiceConfig(tagger=DeploymentConfig("lora")),
            "tagger.folder is '', but must be the",
        ),
        (lambda: ServiceConfig(scorer=DeploymentConfig("lora", "x")), "scorer.loader"),
        (lambda: ServiceConfig(call_timeout_s=0), "call_timeout_s is 0"),
    ],
)
def test_an_impossible_value_is_named(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ServiceConfigError, match=message.replace("[", "\\[")):
        build()


def test_the_fingerprint_is_of_the_values() -> None:
    config = ServiceConfig()
    assert config.fingerprint == ServiceConfig().fingerprint
    assert config.fingerprint != replace(config, gateways=2).fingerprint
    with_token = ServiceConfig(http=HttpConfig(token="a"))
    assert with_token.fingerprint != ServiceConfig(http=HttpConfig(token="b")).fingerprint


def test_a_taggers_kind_stands_for_its_loader(tmp_path: Path) -> None:
    for kind in TaggerKind:
        assert load_class(DeploymentConfig(kind, "x").import_path).load
    assert tagger_deployment("") == DeploymentConfig(TAGGER_LOADER)
    with pytest.raises(ServiceConfigError, match="holds neither"):
        tagger_deployment(str(tmp_path))
    (tmp_path / "lora_tagger.json").write_text("{}", encoding="utf-8")
    with pytest.raises(LoraTaggerFolderError, match="not a LoRA tagger's configuration"):
        tagger_deployment(str(tmp_path))


def load_class(import_path: str) -> type:
    module, _, name = import_path.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def test_a_token_is_not_shown() -> None:
    assert "hidden" not in repr(ServiceConfig(http=HttpConfig(token="hidden")))


def test_pauses_double_up_to_a_bound() -> None:
    policy = RetryPolicy(backoff_s=0.5, max_backoff_s=3.0)
    assert [policy.longest_pause_s(k) for k in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_the_root_cause_is_the_innermost_exception() -> None:
    try:
        try:
            raise FileNotFoundError("head.safetensors")
        except FileNotFoundError as inner:
            raise RuntimeError("replica failed") from inner
    except RuntimeError as outer:
        assert root_cause(outer) == "FileNotFoundError: head.safetensors"


def test_an_encoder_folder_that_lacks_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").touch()
    monkeypatch.setenv("RAPPORT_ENCODER", str(tmp_path))
    with pytest.raises(EncoderNotFoundError, match=r"tokenizer\.json, \*\.safetensors"):
        encoder_folder()


def test_the_installed_encoder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAPPORT_ENCODER", raising=False)
    assert (encoder_folder() / "model.safetensors").is_file()


def test_an_error_survives_its_way_between_processes() -> None:
    import pickle

    from reward_servers.protocol import FailureKind

    error = pickle.loads(pickle.dumps(RewardServerError(FailureKind.OVERLOADED, "full", "gateway")))
    assert (error.kind, str(error)) == (FailureKind.OVERLOADED, "gateway: full (overloaded)")
