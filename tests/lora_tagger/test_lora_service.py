"""The LoRA tagger behind the whole service: what a client in the cluster gets is what the tagger says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import ray

from dialogue.sentences import split_sentences
from reward_servers.client import RetryPolicy
from reward_servers.lora_tagger.tagger import LoraTagger
from reward_servers.protocol import FailureKind, ScoreFailure, TaggedReply
from reward_servers.serve import start_reward_servers, stop_reward_servers
from reward_servers.service_config import ServiceConfig, tagger_deployment

REPLY = "That must have been a long night. Who sat with you?"


@pytest.mark.slow
def test_a_client_gets_the_taggers_verdicts(tagger_folder: Path, tagger: LoraTagger) -> None:
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": os.pathsep.join((str(root),))}
    ray.init(address="local", num_cpus=4, include_dashboard=False, runtime_env={"env_vars": environment})
    config = ServiceConfig(app_name="lora", tagger=tagger_deployment(str(tagger_folder)), start_timeout_s=300)
    try:
        client = start_reward_servers(config, RetryPolicy(timeout_s=60))
        answer, refused = client.tag_sync([REPLY, "and so on " * 1500])
        assert isinstance(answer, TaggedReply)
        wanted = tagger.tag([split_sentences(REPLY)], [REPLY])[0]
        assert np.abs(np.array(answer.tactic_probabilities) - wanted).max() < tagger.tolerance
        assert isinstance(refused, ScoreFailure)
        assert refused.kind is FailureKind.INVALID_REQUEST
        assert "1024 are allowed" in refused.message
    finally:
        stop_reward_servers(config.app_name)
        ray.shutdown()
