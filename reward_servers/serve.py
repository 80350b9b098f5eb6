"""The reward servers as one Ray Serve application.

    client.py ──handle──┐   ┌────────────── Gateway ──────────────┐   ┌─ tactic-tagger (n replicas) ─┐
                        ├──►│ validate ─ split sentences ─┬─ ask ─┼──►│ queue ─► batch ─► model       │
    anyone ────HTTP─────┘   │                             └─ ask ─┼─┐ └───────────────────────────────┘
                            │ answers ◄─ join by place ◄──────────┼┐│ ┌─ empathy-scorer (n replicas) ─┐
                            └─────────────────────────────────────┘│└►│ queue ─► batch ─► model       │
                                                                   └──┤                               │
                                                                      └───────────────────────────────┘
    Where `quality` is configured it is a third model server beside these two, asked at the same time.

States of a request
    received -> refused                                     (INVALID_REQUEST: alone, the others of its call go on)
             -> split -> asked -> tagged and scored -> joined -> answered
                            └──> late, refused, lost or failed on either side -> answered with a ScoreFailure

What each part waits for, and who unblocks it
    client       an answer              the gateway; its own time-out; the error of a dead replica or a full queue
    gateway      a turn, for each piece the end of another piece: of the callers that wait, who was given the least is
                 of a call's work       next (`fair_queue`); a caller with too much in line is told OVERLOADED
                 both model servers     their answers; the caller's time-out (most of it) or call_timeout_s, whichever
                                        is shorter. No lock, no state of a call: any gateway can answer any call
    model server an equal item in work  that work; it goes on until the last call that waits for it is cancelled
    batch queue  more items             max_batch_tokens, or batch_wait_s after the first
    model thread a batch                the batch queue, one batch at a time; a batch that never ends is ended by
                                        Serve, which replaces a replica whose health check (it runs in the same
                                        thread) fails three times in a row
    Serve        a replica to be free   max_ongoing_calls of it; beyond max_queued_calls callers of the gateway get
                                        BackPressureError

An update starts new replicas beside the old ones (surge_percent); an old one leaves when its calls are answered, or
after drain_s. With `scaling`, Serve adds replicas as calls queue up. The line of a gateway has no place in what Serve
counts, so it sends enough for all the replicas that there may be, not for those that there are.

Nobody here retries: scoring is idempotent, and the client alone decides how often to ask again. A replica that dies
fails the calls it holds at once (Serve does not resend them) and is replaced by Serve's controller.
"""

from __future__ import annotations

import logging
import time

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from rich.console import Console

from reward_servers.client import RetryPolicy, RewardClient, RewardServerError, check_url
from reward_servers.failures import root_cause
from reward_servers.gateway import Gateway
from reward_servers.model_server import QualityServer, ScorerServer, TaggerServer
from reward_servers.service_config import GATEWAY, QUALITY, SCORER, TAGGER, DeploymentConfig, HttpConfig, ServiceConfig

logger = logging.getLogger(__name__)

_POLL_S = 0.2


class ServiceStartError(RuntimeError):
    """The application did not come up. The message has the root cause of the deployment that failed."""


def build_application(config: ServiceConfig) -> serve.Application:
    """The deployments, bound to each other; `serve.run` would start them."""
    servers = {TAGGER: TaggerServer, SCORER: ScorerServer, QUALITY: QualityServer}
    models = [_model_deployment(servers[name], name, own).bind(name, own) for name, own in config.models.items()]
    gateway: serve.Deployment = serve.deployment()(Gateway).options(
        name=GATEWAY,
        num_replicas=config.gateways,
        max_ongoing_requests=config.max_ongoing_calls,
        max_queued_requests=config.max_queued_calls,
        graceful_shutdown_timeout_s=max(model.drain_s for model in config.models.values()),
        max_surge_percent=100,  # it needs hardly any room, and with one gateway none means no service
        ray_actor_options={"num_cpus": config.gateway_cpus},
    )
    return gateway.bind(config, *models)


def _model_deployment(server: type, name: str, config: DeploymentConfig) -> serve.Deployment:
    deployment: serve.Deployment = serve.deployment()(server).options(
        name=name,
        max_ongoing_requests=config.max_ongoing_calls,
        # A gateway sends no more than the replicas can hold; what they cannot, while some are gone, waits for them.
        max_queued_requests=config.max_ongoing_calls * config.most_replicas,
        max_surge_percent=config.surge_percent,
        health_check_period_s=config.health_period_s,
        health_check_timeout_s=config.health_timeout_s,
        graceful_shutdown_timeout_s=config.drain_s,
        max_constructor_retry_count=1,  # weights that are missing now are missing at a second try too
        ray_actor_options={"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
    )
    if config.max_replicas_per_node:
        deployment = deployment.options(max_replicas_per_node=config.max_replicas_per_node)
    if not config.scaling.max_replicas:
        return deployment.options(num_replicas=config.replicas)
    return deployment.options(autoscaling_config=_autoscaling(config))


def _autoscaling(config: DeploymentConfig) -> dict[str, float]:
    scaling = config.scaling
    return {
        "min_replicas": config.replicas,
        "max_replicas": scaling.max_replicas,
        "target_ongoing_requests": scaling.target_calls,
        "look_back_period_s": scaling.look_back_s,
        "upscale_delay_s": scaling.upscale_delay_s,
        "downscale_delay_s": scaling.downscale_delay_s,
    }


def start_reward_servers(config: ServiceConfig, policy: RetryPolicy | None = None) -> RewardClient:
    """Start the application in this process's Ray cluster, wait until it is healthy, and return a client of it.

    Starting what already runs with the same configuration does nothing; with another one it is updated in place.
    New weights under an unchanged folder are not noticed: stop the application first.

    Raises:
        RuntimeError: this process is connected to no Ray cluster.
        ServiceStartError: a deployment failed, or not all were healthy within `start_timeout_s`.
    """
    if not ray.is_initialized():
        raise RuntimeError("no Ray in this process: call ray.init() before starting the reward servers")
    client = RewardClient.in_cluster(config.app_name, policy)
    if _running_fingerprint(config) == config.fingerprint:
        logger.info("reward servers %r already run with this configuration", config.app_name)
        return client
    _start_serve(config)
    prefix = "/" if config.http is not None else None
    target = serve.RunTarget(build_application(config), name=config.app_name, route_prefix=prefix)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    deadline = time.monotonic() + config.start_timeout_s
    _wait_until_running(config)
    if config.http is not None:
        _wait_for_http(config, config.http, deadline)
    return client


def _start_serve(config: ServiceConfig) -> None:
    """Start Ray Serve itself, if it is not there yet; its HTTP proxy only where HTTP is configured."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # else the caller's terminal gets Serve's diary
    try:
        if config.http is None:
            serve.start(proxy_location="Disabled")
        else:
            serve.start(proxy_location="HeadOnly", http_options={"host": config.http.host, "port": config.http.port})
    except TimeoutError as error:
        # Serve allows its proxy 60 s; on a busy machine it comes later, and `_wait_for_http` waits for it.
        logger.warning("Ray Serve is slow to start (%s); still waiting", root_cause(error))
    except (RayError, RayServeException) as error:
        raise ServiceStartError(f"Ray Serve did not start: {root_cause(error)}") from error


def _wait_for_http(config: ServiceConfig, http: HttpConfig, deadline: float) -> None:
    """Until the routes answer; a Serve that was started without a proxy, or with another port, never will."""
    host = "127.0.0.1" if http.host == "0.0.0.0" else http.host
    while True:
        try:
            check_url(f"http://{host}:{http.port}", http.token, timeout_s=5)
            return
        except RewardServerError as error:
            if time.monotonic() > deadline:
                raise ServiceStartError(
                    f"the reward servers {config.app_name!r} run, but not over HTTP: {error}. If Ray Serve already ran "
                    "in this cluster with other HTTP settings, use those or shut it down first (`serve shutdown`)"
                ) from error
        time.sleep(_POLL_S)


def stop_reward_servers(app_name: str, timeout_s: float = 60.0) -> None:
    """Stop the application if it runs; calls in flight may finish for ten seconds.

    Raises:
        TimeoutError: it is still there after `timeout_s`.
    """
    if app_name not in serve.status().applications:
        return
    serve.delete(app_name, _blocking=False)
    deadline = time.monotonic() + timeout_s
    while app_name in serve.status().applications:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the reward servers {app_name!r} did not stop within {timeout_s:g} s; see `serve status`"
            )
        time.sleep(_POLL_S)


def _running_fingerprint(config: ServiceConfig) -> str | None:
    """Fingerprint of a healthy application of this name, else None."""
    application = serve.status().applications.get(config.app_name)
    if application is None or application.status is not ApplicationStatus.RUNNING:
        return None
    try:
        return serve.get_app_handle(config.app_name).fingerprint.remote().result(timeout_s=10)
    except (RayServeException, RayError, TimeoutError) as error:
        logger.warning("reward servers %r run but do not answer (%s); deploying", config.app_name, root_cause(error))
        return None


def _wait_until_running(config: ServiceConfig) -> None:
    began = time.monotonic()
    with Console(stderr=True).status("reward servers: starting") as line:
        while True:
            application = serve.status().applications.get(config.app_name)
            waited = time.monotonic() - began
            line.update(f"reward servers: {_progress(application)} ({waited:.0f} s)")
            if application is not None and application.status is ApplicationStatus.RUNNING:
                logger.info("reward servers %r are up after %.1f s", config.app_name, waited)
                return
            _raise_if_failed(config, application, waited)
            time.sleep(_POLL_S)


def _progress(application: ApplicationStatusOverview | None) -> str:
    if application is None:
        return "asked for"
    return ", ".join(f"{name} {d.status.value.lower()}" for name, d in application.deployments.items()) or "deploying"


def _raise_if_failed(config: ServiceConfig, application: ApplicationStatusOverview | None, waited: float) -> None:
    failed = application is not None and application.status is ApplicationStatus.DEPLOY_FAILED
    if not failed and waited < config.start_timeout_s:
        return
    messages = [
        f"{name}: {d.message}" for name, d in (application.deployments.items() if application else ()) if d.message
    ]
    why = (
        "failed to start"
        if failed
        else f"are not healthy after {config.start_timeout_s:g} s ({_progress(application)})"
    )
    needs = (
        f"they need {cpus_needed(config):g} CPUs and {_gpus(config):g} GPUs, of which the cluster has free: "
        f"{ray.available_resources().get('CPU', 0):g} CPUs, {ray.available_resources().get('GPU', 0):g} GPUs"
    )
    details = "\n".join(messages) or (application.message if application else "")
    raise ServiceStartError(f"the reward servers {config.app_name!r} {why}; {needs}\n{details}")


def cpus_needed(config: ServiceConfig) -> float:
    """CPUs that all replicas reserve together, when there are as many as there may be."""
    models = sum(d.most_replicas * d.num_cpus for d in config.models.values())
    return models + config.gateways * config.gateway_cpus


def _gpus(config: ServiceConfig) -> float:
    return sum(d.most_replicas * d.num_gpus for d in config.models.values())
