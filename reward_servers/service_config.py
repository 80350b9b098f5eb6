"""The configuration of the reward servers' Ray Serve application: frozen, checked when it is built."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address

# Names of the deployments, as `serve status`, failures and `Score.model_versions` show them.
TAGGER = "tactic-tagger"
SCORER = "empathy-scorer"
QUALITY = "quality"
GATEWAY = "gateway"

TAGGER_LOADER = "reward_servers.tactics.encoder_tagger:EncoderTagger"
SCORER_LOADER = "reward_servers.empathy.scorer:EmpathyScorer"
QUALITY_LOADER = "reward_servers.turn_scorers.scorer:TurnScorer"


class ServiceConfigError(ValueError):
    """A service that cannot run as configured. The message names the field, its value and what would be right."""


def _require(holds: bool, field_name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ServiceConfigError(f"{field_name} is {value!r}, but must be {wanted}")


@dataclass(frozen=True)
class DeploymentConfig:
    """One kind of model server.

    Attributes:
        loader: `module:Class`; the class has `load(folder: Path | None)`, `version` and the model's own method: `tag`
            and `decide`, `score`, or `quality`.
        folder: weights folder given to `load`; empty for the class's own default.
        replicas: processes, on any nodes of the cluster.
        num_cpus: CPUs reserved per replica. Half a one, because a synchronous trainer computes nothing while it
            waits for scores. Ray also makes their whole number (at least 1) the replica's computing threads, unless
            OMP_NUM_THREADS is set.
        num_gpus: GPUs per replica; fractions share one GPU.
        max_batch_size: replies computed together at most; a call that is larger by itself is computed whole.
        batch_wait_s: how long the first reply of a batch waits for others.
        max_ongoing_calls: calls one replica holds at a time, those waiting for its model thread included.
        max_queued_calls: calls that may wait in one caller for a replica; beyond it callers are told OVERLOADED.
        cache_bytes: memory of one replica for predictions that it gives again when asked the same; 0 keeps none.
        health_period_s: seconds between checks that run the model on a fixed reply.
        health_timeout_s: a check that takes longer fails; three failed checks in a row replace the replica.
    """

    loader: str
    folder: str = ""
    replicas: int = 1
    num_cpus: float = 0.5
    num_gpus: float = 0.0
    max_batch_size: int = 32
    batch_wait_s: float = 0.005
    max_ongoing_calls: int = 64
    max_queued_calls: int = 256
    cache_bytes: int = 64 * 2**20
    health_period_s: float = 10.0
    health_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        module, colon, name = self.loader.partition(":")
        _require(bool(module and colon and name), "loader", self.loader, "an import path like package.module:Class")
        for key in ("replicas", "max_batch_size", "max_ongoing_calls", "max_queued_calls"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("num_cpus", "num_gpus", "batch_wait_s", "cache_bytes"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        for key in ("health_period_s", "health_timeout_s"):
            _require(getattr(self, key) > 0, key, getattr(self, key), "above 0")


@dataclass(frozen=True)
class HttpConfig:
    """The HTTP side. Without it the application is reached through Ray handles only and no port is opened."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = field(default="", repr=False)
    max_body_bytes: int = 8 * 2**20

    def __post_init__(self) -> None:
        _require(0 < self.port < 2**16, "http.port", self.port, "from 1 to 65535")
        _require(self.max_body_bytes >= 1024, "http.max_body_bytes", self.max_body_bytes, "at least 1024")
        _require(
            bool(self.token) or _is_loopback(self.host),
            "http.token",
            self.token,
            f"set when http.host is {self.host}, because others on the network can reach it; or use 127.0.0.1",
        )


@dataclass(frozen=True)
class LimitsConfig:
    """What a request may be; one that is over a limit fails alone, as INVALID_REQUEST. Lengths in characters."""

    max_response_chars: int = 20_000
    max_history_chars: int = 200_000
    max_requests_per_call: int = 1024

    def __post_init__(self) -> None:
        for key in ("max_response_chars", "max_history_chars", "max_requests_per_call"):
            _require(getattr(self, key) >= 1, f"limits.{key}", getattr(self, key), "at least 1")


@dataclass(frozen=True)
class ServiceConfig:
    """The whole application.

    Attributes:
        quality: what gives `Score.quality`, Q of the reward: a trained turn scorer, or any Hugging Face reward model
            with the loader `reward_servers.reward_model:RewardModel`. None: the scorer's aggregated empathy.
        gateways: replicas that validate, split and join; they hold no model.
        gateway_cpus: CPUs reserved per gateway.
        call_timeout_s: longest a gateway waits for a model server, whatever the caller allows.
        start_timeout_s: longest `start_reward_servers` waits for every deployment to be healthy.
    """

    app_name: str = "rapport-rewards"
    tagger: DeploymentConfig = field(default_factory=lambda: DeploymentConfig(TAGGER_LOADER))
    scorer: DeploymentConfig = field(default_factory=lambda: DeploymentConfig(SCORER_LOADER))
    quality: DeploymentConfig | None = None
    gateways: int = 1
    gateway_cpus: float = 0.1
    max_ongoing_calls: int = 128
    max_queued_calls: int = 512
    call_timeout_s: float = 120.0
    start_timeout_s: float = 180.0
    http: HttpConfig | None = None
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __post_init__(self) -> None:
        _require(bool(self.app_name), "app_name", self.app_name, "a name")
        for key in ("gateways", "max_ongoing_calls", "max_queued_calls"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        if self.quality is not None and self.quality.loader == QUALITY_LOADER:
            _require(bool(self.quality.folder), "quality.folder", "", "the folder of a trained scorer: none ships")
        _require(self.gateway_cpus >= 0, "gateway_cpus", self.gateway_cpus, "0 or more")
        for key in ("call_timeout_s", "start_timeout_s"):
            _require(getattr(self, key) > 0, key, getattr(self, key), "above 0")

    @property
    def models(self) -> dict[str, DeploymentConfig]:
        """Deployment name -> configuration of every model server."""
        quality = {} if self.quality is None else {QUALITY: self.quality}
        return {TAGGER: self.tagger, SCORER: self.scorer, **quality}

    @property
    def fingerprint(self) -> str:
        """Equal for equal configurations, in any process."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
