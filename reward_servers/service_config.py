"""The configuration of the reward servers' Ray Serve application: frozen, checked when it is built."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

from reward_servers.protocol import TOKEN_VARIABLE

# Names of the deployments, as `serve status`, failures and `Score.model_versions` show them.
TAGGER = "tactic-tagger"
SCORER = "empathy-scorer"
QUALITY = "quality"
GATEWAY = "gateway"

TAGGER_LOADER = "reward_servers.tactics.encoder_tagger:EncoderTagger"
LORA_LOADER = "reward_servers.lora_tagger.tagger:LoraTagger"
SCORER_LOADER = "reward_servers.empathy.scorer:EmpathyScorer"
QUALITY_LOADER = "reward_servers.turn_scorers.scorer:TurnScorer"
REWARD_MODEL_LOADER = "reward_servers.reward_model:RewardModel"
JUDGE_LOADER = "evaluation.judge.scorer:JudgeScorer"

# Loader -> the file by which its folder is known. The order matters: any model has a config.json, ours among them.
MARKS = {
    QUALITY_LOADER: "turn_scorer.json",
    JUDGE_LOADER: "calibration.json",
    SCORER_LOADER: "scorer.safetensors",
    REWARD_MODEL_LOADER: "config.json",
}


class TaggerKind(StrEnum):
    """A short name for a tagger's loader: one encoder for all ten tactics, or ten LoRA adapters on an LLM."""

    ENCODER = "encoder"
    LORA = "lora"

    @property
    def import_path(self) -> str:
        return TAGGER_LOADER if self is TaggerKind.ENCODER else LORA_LOADER


class ServiceConfigError(ValueError):
    """A service that cannot run as configured. The message names the field, its value and what would be right."""


def _require(holds: bool, field_name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ServiceConfigError(f"{field_name} is {value!r}, but must be {wanted}")


@dataclass(frozen=True)
class ScalingConfig:
    """More replicas when calls queue up, fewer when they are gone.

    Attributes:
        max_replicas: the most there may be; 0 keeps their number as it is.
        target_calls: calls of a replica, computed and waiting, that are aimed at: with more of them on the average,
            replicas are added.
        look_back_s: over which the average is taken. Ray Serve learns of new figures every 10 s.
        upscale_delay_s: how long there must be too many calls before a replica is added.
        downscale_delay_s: how long there must be too few before one is taken away.
    """

    max_replicas: int = 0
    target_calls: float = 8.0
    look_back_s: float = 30.0
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 300.0

    def __post_init__(self) -> None:
        for key in ("target_calls", "look_back_s"):
            _require(getattr(self, key) > 0, f"scaling.{key}", getattr(self, key), "above 0")
        for key in ("max_replicas", "upscale_delay_s", "downscale_delay_s"):
            _require(getattr(self, key) >= 0, f"scaling.{key}", getattr(self, key), "0 or more")


@dataclass(frozen=True)
class DeploymentConfig:
    """One kind of model server.

    Attributes:
        loader: `module:Class`; the class has `load(folder: Path | None)`, `version` and the model's own method: `tag`
            and `decide`, `score`, or `quality`. For a tagger also its kind: `encoder` or `lora`. A class with
            `concurrent = True` may be called while it works: its health check does not wait for a batch.
        folder: weights folder given to `load`; empty for the class's own default.
        replicas: processes, spread over the nodes of the cluster; with `scaling`, the fewest.
        max_replicas_per_node: of this deployment; 0 sets no bound.
        surge_percent: of the replicas may be started beside the old ones in an update, so that no capacity is lost
            meanwhile; 0 stops an old one first, where a node or a GPU has no room for both.
        num_cpus: CPUs reserved per replica. Half a one, because a synchronous trainer computes nothing while it
            waits for scores. Ray also makes their whole number (at least 1) the replica's computing threads, unless
            OMP_NUM_THREADS is set.
        num_gpus: GPUs per replica; fractions share one GPU.
        max_batch_tokens: tokens computed together at most, history included; a reply with more is computed alone.
            Counted by the model's own `count_tokens(item)` if it has one, else estimated at 4 bytes a token.
        batch_wait_s: how long the first reply of a batch waits for others.
        max_ongoing_calls: calls one replica holds at a time, those waiting for its model thread included.
        max_queued_calls: calls of one caller that may wait in a gateway for their turn; beyond it this caller, and no
            other, is told OVERLOADED.
        drain_s: how long a replica that is to stop may go on with the calls it holds.
        cache_bytes: memory of one replica for predictions that it gives again when asked the same; 0 keeps none.
        health_period_s: seconds between checks that run the model on a fixed reply.
        health_timeout_s: a check that takes longer fails; three failed checks in a row replace the replica.
    """

    loader: str
    folder: str = ""
    replicas: int = 1
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    max_replicas_per_node: int = 0
    surge_percent: int = 100
    num_cpus: float = 0.5
    num_gpus: float = 0.0
    max_batch_tokens: int = 16384
    batch_wait_s: float = 0.005
    max_ongoing_calls: int = 64
    max_queued_calls: int = 256
    cache_bytes: int = 64 * 2**20
    health_period_s: float = 10.0
    health_timeout_s: float = 30.0
    drain_s: float = 10.0

    @property
    def most_replicas(self) -> int:
        """How many there may be at a time."""
        return max(self.replicas, self.scaling.max_replicas)

    def __post_init__(self) -> None:
        module, colon, name = self.import_path.partition(":")
        _require(
            bool(module and colon and name),
            "loader",
            self.loader,
            f"an import path like package.module:Class, or for a tagger {' or '.join(TaggerKind)}",
        )
        for key in ("replicas", "max_batch_tokens", "max_ongoing_calls", "max_queued_calls"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        _require(0 <= self.surge_percent <= 100, "surge_percent", self.surge_percent, "from 0 to 100")
        _require(
            self.num_gpus <= 1 or self.num_gpus == int(self.num_gpus),
            "num_gpus",
            self.num_gpus,
            "a fraction below 1 or a whole number",
        )
        most = self.scaling.max_replicas
        _require(
            not most or most >= self.replicas,
            "scaling.max_replicas",
            most,
            f"0, or at least replicas = {self.replicas}",
        )
        for key in ("max_replicas_per_node", "num_cpus", "num_gpus", "batch_wait_s", "cache_bytes", "drain_s"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        for key in ("health_period_s", "health_timeout_s"):
            _require(getattr(self, key) > 0, key, getattr(self, key), "above 0")

    @property
    def import_path(self) -> str:
        """`module:Class`, also where `loader` is a tagger's kind."""
        return TaggerKind(self.loader).import_path if self.loader in tuple(TaggerKind) else self.loader


def tagger_deployment(folder: str, replicas: int = 1) -> DeploymentConfig:
    """A deployment of the tagger in `folder`, of whichever kind it is; of the shipped encoder if it is empty.

    Raises:
        ServiceConfigError: the folder holds no tagger.
        LoraTaggerFolderError: a LoRA tagger that lacks something.
    """
    from reward_servers.lora_tagger.folder import is_lora_tagger

    lora = bool(folder) and is_lora_tagger(Path(folder).expanduser())
    path = str(Path(folder).expanduser().resolve()) if folder else ""
    config = DeploymentConfig(TaggerKind.LORA.value if lora else TAGGER_LOADER, path, replicas=replicas)
    check_tagger(config)
    return config


def check_tagger(config: DeploymentConfig) -> None:
    """What can be known of a tagger without loading a model; to be called before anything is started.

    Raises:
        ServiceConfigError: the folder holds no encoder tagger.
        LoraTaggerFolderError: the folder of a LoRA tagger lacks something.
    """
    if config.import_path == TAGGER_LOADER and config.folder and not (Path(config.folder) / "tagger.json").is_file():
        raise ServiceConfigError(
            f"{config.folder} holds neither tagger.json nor lora_tagger.json: give a folder made by "
            "`rapport tagger train`, `train-lora` or `adopt`"
        )
    if config.import_path == LORA_LOADER:
        from reward_servers.lora_tagger.folder import find_adapters, load_config

        load_config(Path(config.folder))
        find_adapters(Path(config.folder))


def check_model(name: str, config: DeploymentConfig) -> None:
    """What can be known of a deployment on this machine without loading its model; errors too of `check_tagger`.

    Raises:
        ServiceConfigError: the loader's module is not there, or the folder is not one that it reads.
    """
    module = config.import_path.partition(":")[0]
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that should hold it
        found = False
    _require(found, f"{name}: loader", config.loader, f"in a module that can be imported; there is no {module}")
    check_tagger(config)
    mark = MARKS.get(config.import_path)
    if config.folder:
        _require(Path(config.folder).is_dir(), f"{name}: folder", config.folder, "a folder that is there")
        holds = mark is None or (Path(config.folder) / mark).is_file()
        _require(holds, f"{name}: folder", config.folder, f"one with {mark} in it, which {config.loader} reads")
    needs_folder = mark is not None and config.import_path != SCORER_LOADER
    _require(bool(config.folder) or not needs_folder, f"{name}: folder", "", f"set: it holds {mark}")


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
            bool(self.token) or is_loopback(self.host),
            "http.token",
            self.token,
            f"set (here or as {TOKEN_VARIABLE}) when http.host is {self.host}, because others on the network can reach "
            "it; or use 127.0.0.1",
        )
        carried = self.token.isascii() and self.token.isprintable() and " " not in self.token
        _require(carried, "http.token", "not shown", "printable ASCII without spaces: no header carries anything else")


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
        max_ongoing_calls: calls that one gateway holds at a time.
        max_calls_per_caller: of them, those of one caller; beyond it this caller is told OVERLOADED.
        max_queued_calls: calls that may wait in one process of callers, or in the HTTP proxy, for a gateway.
        call_timeout_s: longest a gateway waits for a model server, whatever the caller allows.
        start_timeout_s: longest `start_reward_servers` waits for every deployment to be healthy.
    """

    app_name: str = "rapport-rewards"
    tagger: DeploymentConfig = field(default_factory=lambda: DeploymentConfig(TAGGER_LOADER))
    scorer: DeploymentConfig = field(default_factory=lambda: DeploymentConfig(SCORER_LOADER))
    quality: DeploymentConfig | None = None
    gateways: int = 1
    gateway_cpus: float = 0.1
    max_ongoing_calls: int = 256
    max_calls_per_caller: int = 64
    max_queued_calls: int = 512
    call_timeout_s: float = 120.0
    start_timeout_s: float = 180.0
    http: HttpConfig | None = None
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __post_init__(self) -> None:
        _require(bool(self.app_name), "app_name", self.app_name, "a name")
        _require(self.scorer.loader not in tuple(TaggerKind), "scorer.loader", self.scorer.loader, "a scorer's")
        needs_folder = self.tagger.import_path == LORA_LOADER
        wanted = "the folder of a LoRA tagger (rapport tagger train-lora makes one)"
        _require(bool(self.tagger.folder) or not needs_folder, "tagger.folder", self.tagger.folder, wanted)
        for key in ("gateways", "max_ongoing_calls", "max_calls_per_caller", "max_queued_calls"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        most = self.max_calls_per_caller
        _require(
            most <= self.max_ongoing_calls,
            "max_calls_per_caller",
            most,
            f"at most max_ongoing_calls = {self.max_ongoing_calls}",
        )
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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
