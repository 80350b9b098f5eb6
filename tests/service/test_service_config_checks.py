"""A service that cannot run is refused when its configuration is built, with the field, the value and a remedy."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reward_servers.client import RetryPolicy
from reward_servers.encoder import EncoderNotFoundError, encoder_folder
from reward_servers.failures import RewardServerError, gateway_timeout_s, root_cause
from reward_servers.lora_tagger.folder import LoraTaggerFolderError
from reward_servers.serve import build_application, cpus_needed
from reward_servers.service_config import (
    TAGGER,
    TAGGER_LOADER,
    DeploymentConfig,
    HttpConfig,
    LimitsConfig,
    ScalingConfig,
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
        (lambda: DeploymentConfig(LOADER, num_gpus=1.5), "a fraction below 1 or a whole number"),
        (lambda: DeploymentConfig(LOADER, max_batch_tokens=0), "max_batch_tokens is 0"),
        (lambda: DeploymentConfig(LOADER, surge_percent=101), "from 0 to 100"),
        (lambda: DeploymentConfig(LOADER, drain_s=-1), "drain_s is -1"),
        (
            lambda: DeploymentConfig(LOADER, replicas=3, scaling=ScalingConfig(max_replicas=2)),
            "scaling.max_replicas is 2, but must be 0, or at least replicas = 3",
        ),
        (lambda: ScalingConfig(target_calls=0), "scaling.target_calls is 0"),
        (lambda: ServiceConfig(max_ongoing_calls=10), "max_calls_per_caller is 64, but must be at most"),
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


def test_ray_serve_is_told_what_the_configuration_says() -> None:
    """The options as Serve's own, validated classes hold them."""
    scaling = ScalingConfig(max_replicas=4, target_calls=3, look_back_s=20, upscale_delay_s=1, downscale_delay_s=2)
    scaled = DeploymentConfig(LOADER, replicas=2, num_gpus=0.25, scaling=scaling, max_replicas_per_node=1, drain_s=7)
    fixed = DeploymentConfig(LOADER, replicas=3, surge_percent=0, max_ongoing_calls=5)
    config = ServiceConfig(tagger=fixed, scorer=scaled)
    gateway: Any = build_application(config)._bound_deployment
    tagger, scorer = (argument._bound_deployment for argument in gateway.init_args[1:])
    assert (tagger.name, tagger.num_replicas, tagger._deployment_config.max_surge_percent) == (TAGGER, 3, 0)
    assert tagger.max_queued_requests == 5 * 3 and tagger._deployment_config.autoscaling_config is None
    automatic = scorer._deployment_config.autoscaling_config
    assert (automatic.min_replicas, automatic.max_replicas, automatic.target_ongoing_requests) == (2, 4, 3)
    assert (automatic.look_back_period_s, automatic.upscale_delay_s, automatic.downscale_delay_s) == (20, 1, 2)
    assert scorer.ray_actor_options["num_gpus"] == 0.25
    assert scorer._replica_config.max_replicas_per_node == 1
    assert scorer._deployment_config.graceful_shutdown_timeout_s == 7
    assert gateway._deployment_config.max_surge_percent == 100
    assert cpus_needed(config) == (3 + 4) * 0.5 + 0.1


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


def load_class(import_path: str) -> Any:
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


@pytest.mark.parametrize(("timeout_s", "gateway_s"), [(60, 54), (10, 9), (5, 4), (2, 1), (0.5, 0.25)])
def test_of_a_time_out_a_tenth_and_at_least_a_second_is_left_for_the_way_back(
    timeout_s: float, gateway_s: float
) -> None:
    """Or half of it, where a second is more than that."""
    assert gateway_timeout_s(timeout_s) == pytest.approx(gateway_s)
