"""`rapport serve`: the reward servers for as long as the command runs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reward_servers.protocol import TOKEN_VARIABLE

if TYPE_CHECKING:
    from reward_servers.service_config import ServiceConfig


class UpdateError(ValueError):
    """An update of nothing. The message says what is missing."""


def serve(
    config_path: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="What to serve; the shipped models if absent.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on, instead of http.host.")] = "",
    port: Annotated[int, typer.Option("--port", help="Port to listen on, instead of http.port.")] = 0,
    update: Annotated[bool, typer.Option("--update", help="Change the servers that run to CONFIG, and leave.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the configuration and start nothing.")] = False,
) -> None:
    """Serve tactics and empathy scores over HTTP until Ctrl-C.

    On this machine, or in the Ray cluster that RAY_ADDRESS names.

    \b
    Ask it in another terminal:
      curl http://127.0.0.1:8000/v1/score \\
        -H 'Content-Type: application/json' \\
        -d '{"requests": [{"id": "1", "response": "That hurts.", "history":
             [{"role": "user", "content": "I lost my job."}]}]}'

    \b
    Routes:
      POST /v1/score     tactics of each sentence, six dimensions, quality
      POST /v1/tactics   the tactics alone
      POST /v1/empathy   the six dimensions alone
      POST /v1/quality   one number for each reply
      POST /get_reward   OpenRLHF's remote reward model asks here
      GET  /healthz      GET /metrics (Prometheus)      GET /openapi.json

    \b
    CONFIG.yaml, all keys optional (configs/serve/demo.yaml is one):
      http: {host: 0.0.0.0, port: 8000, token: SECRET}
      tagger: {replicas: 2, folder: runs/my-tagger}      # the encoder
      tagger: {loader: lora, folder: runs/lora-tagger}   # adapters on an LLM
      scorer: {replicas: 4, num_gpus: 0.25}
      quality: {folder: runs/scorers/mvc/seed-0}   # else aggregated empathy
      quality: {loader: "reward_servers.reward_model:RewardModel", folder: DIR}

    \b
    A token is needed where others can reach the port. It is http.token, or
    where CONFIG.yaml has none the variable RAPPORT_REWARD_TOKEN.
    OpenRLHF sends none; give it http://any:TOKEN@HOST:PORT/get_reward

    Ctrl-C takes no new calls; those in flight have ten seconds.

    \b
    To change what runs, replica by replica and without a failed call:
      RAY_ADDRESS=auto rapport serve CHANGED.yaml --update
    New weights need a new folder: equal configurations are one and the same.
    """
    config = _chosen(config_path, host, port)
    in_cluster = bool(os.environ.get("RAY_ADDRESS"))
    _check_models(config, in_cluster)
    if dry_run:
        typer.echo(_described(config))
    else:
        _run(config, update, in_cluster)


def _run(config: ServiceConfig, update: bool, in_cluster: bool) -> None:
    from cluster.session import ray_session
    from reward_servers.serve import cpus_needed
    from reward_servers.serving import check_place, check_port, serve_until_stopped, update_service

    if update and not in_cluster:
        raise UpdateError("--update changes servers that run: say where by RAY_ADDRESS, auto for those of this machine")
    if not in_cluster:
        check_port(config)
    with ray_session(parallel_actors=int(cpus_needed(config)) + 1):
        check_place(config, may_grow=in_cluster)
        (update_service if update else serve_until_stopped)(config, typer.echo)


def _chosen(path: Path | None, host: str, port: int) -> ServiceConfig:
    """The file's configuration, with the environment's token if it has none, at the command line's address."""
    from reward_servers.service_file import load_service

    token = os.environ.get(TOKEN_VARIABLE, "")
    config = load_service(path, token)
    assert config.http is not None, "load_service always has HTTP"
    http = config.http
    return replace(
        config, http=replace(http, host=host or http.host, port=port or http.port, token=http.token or token)
    )


def _check_models(config: ServiceConfig, in_cluster: bool) -> None:
    """What would else be told a minute later by a replica. A cluster may have modules and folders of its own."""
    from reward_servers.service_config import JUDGE_LOADER, check_model, check_tagger

    if in_cluster:
        check_tagger(config.tagger)
        return
    for name, model in config.models.items():
        check_model(name, model)
        if model.import_path == JUDGE_LOADER:
            from evaluation.judge.scorer import CALIBRATION_FILE, read_settings

            read_settings(Path(model.folder) / CALIBRATION_FILE)


def _described(config: ServiceConfig) -> str:
    from dataclasses import asdict

    import yaml

    shown = asdict(config)
    shown["http"]["token"] = "(set)" if shown["http"]["token"] else ""
    return yaml.safe_dump(shown, sort_keys=False).rstrip()
