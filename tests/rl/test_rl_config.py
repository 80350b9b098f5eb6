"""Every preset parses; every mistake is one error that names the key."""

from __future__ import annotations

import pytest

from rl.checks import check_gpus
from rl.config import ConfigError, EngineName, KlEstimator, LossConfig
from rl.config_loading import PRESETS, load_config
from rl.typed_yaml import to_yaml

PAPER = {"q-dkl": (1.0, 0.0), "q-h": (0.0, 1.0), "q-dkl-h": (0.5, 0.5)}


@pytest.mark.parametrize("name", PRESETS.names())
def test_every_preset_parses_and_survives_a_round_trip(name, tmp_path):
    config = load_config(name)
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "saved.yaml")) == config


@pytest.mark.parametrize("size", ["1.7b", "4b"])
@pytest.mark.parametrize(("run", "gammas"), PAPER.items())
def test_the_papers_six_runs_have_its_hyperparameters(size, run, gammas):
    config = load_config(f"mint-qwen3-{size}-{run}")
    assert (config.reward.gamma_kl, config.reward.gamma_entropy) == gammas
    assert (config.prompts_per_step, config.rollout.n, config.epochs, config.save_every) == (24, 8, 3, 50)
    assert (config.learner.lr, config.learner.loss.kl_coef) == (1e-6, 0.01)
    assert (config.rollout.max_prompt_tokens, config.rollout.max_response_tokens) == (8192, 2048)
    assert config.model.lora.rank == 0
    assert (config.rollout.temperature, config.data.holdout_fraction) == (1.0, 0.0)
    assert (config.learner.loss.advantage, config.learner.loss.kl_estimator) == ("grpo", KlEstimator.low_var_kl)
    assert config.model.path == f"Qwen/Qwen3-{size.upper()}"
    reward = config.reward
    assert (reward.weight, reward.alpha, reward.kl_cap, reward.target_tokens) == (1.0, 0.1, 5.0, 200)
    assert (reward.gamma_bigram, reward.gamma_trigram, reward.leak_penalty) == (0.0, 0.0, 2.0)
    ours = (reward.truncation_penalty, reward.stock_penalty, reward.habit_penalty)
    assert ours == (0.0, 0.0, 0.0), "the paper has none of these"


def test_overrides_win_over_the_preset():
    config = load_config("tiny", ["learner.engine=zero2", "learner.betas=[0.9,0.95]", "model.lora.rank=4"])
    assert config.learner.engine is EngineName.zero2
    assert config.learner.betas == (0.9, 0.95)
    assert config.model.lora.rank == 4


MISTAKES = {
    "learner.enigne=zero2": r"unknown key learner\.enigne \(did you mean engine\?\)",
    "learner.engine=zero9": r"learner\.engine.*zero9.*fsdp2, zero1, zero2, zero3",
    "learner.lr=fast": r"learner\.lr=fast: .*expected a number",
    "steps=1.5": r"steps=1\.5: .*expected a whole number",
    "trackers=wandb": r"trackers: expected a list, such as \[a,b\]",
    "learner.lr=-1": r"learner\.lr=-1.0: must be above 0",
    "rollout.n=1": r"rollout\.n=1: a group needs at least 2",
    "reward.min_group=9": r"reward\.min_group=9",
    "rollout.top_p=0.9": r"rollout\.top_p=0\.9.*set top_p=1\.0",
    "learner.minibatches=9": r"learner\.minibatches=9",
    "data.holdout_fraction=2": r"data\.holdout_fraction=2\.0",
    "rollout.gpu_share=0": r"rollout\.gpu_share=0\.0: must lie between",
    "model.lora=3": r"model\.lora is a group of keys: rank, alpha, dropout, target_modules",
    "lr": r"expected key=value",
    "name=a/b": r"name='a/b'",
    "name=..": r"name='\.\.'",
    "name=${nobody}": r"name: Interpolation key 'nobody' not found",
    "lr=3": r"unknown key lr \(did you mean warm_start\.lr or learner\.lr\?\)",
    "learner.lr={": r"override learner\.lr=\{: the value cannot be read",
    "a..b=1": r"expected key=value",
    "learner.lr=.inf": r"learner\.lr=inf: must be a finite number",
    "learner.loss.kl_coef=nan": r"learner\.loss\.kl_coef=nan: must be a finite number",
    "seed=-1": r"seed=-1: must be 0 or more",
    "learner.betas=[0.9]": r"learner\.betas=\[0\.9\]: AdamW takes two",
    "learner.betas=[0.9,1.0]": r"learner\.betas: 1\.0 must lie from 0 to below 1",
    "model.lora.dropout=1": r"model\.lora\.dropout: 1\.0 must lie",
    "model.lora.target_modules=[lm_head]": r"lm_head cannot be adapted",
    "learner.loss.clip_ratio_low=-1": r"learner\.loss\.clip_ratio_low=-1\.0: must be 0 or more",
    "warm_start.batch_conversations=0": r"warm_start\.batch_conversations=0: must be 1 or more",
    "evaluation.temperature=-1": r"evaluation\.temperature=-1\.0: must be 0 or more",
}


@pytest.mark.parametrize(("override", "message"), MISTAKES.items())
def test_a_mistake_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", [override])


PAIRS = {
    ("evaluation.temperature=0", "evaluation.samples_per_prompt=2"): r"all would be the same reply",
    ("evaluation.every=2", "data.holdout_fraction=0"): r"evaluation\.every=2 .* no conversation is held out",
    ("reward.mode=diversity_only", "reward.gamma_kl=0"): r"all replies would get the same reward",
    ("learner.loss.advantage=rloo", "learner.loss.norm_adv_by_std=false"): r"only grpo and its kin",
    ("servers.url=http://a", "servers.tagger=b"): r"leave one of the two empty",
}


@pytest.mark.parametrize(("overrides", "message"), PAIRS.items())
def test_keys_that_contradict_each_other(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", overrides)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "twice.yaml").write_text("learner:\n  lr: 1e-6\n  lr: 2e-6\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml, line 3: not valid YAML: the key 'lr' stands twice"):
        load_config(str(tmp_path / "twice.yaml"))


def test_a_file_extends_another_beside_it_and_never_itself(tmp_path):
    (tmp_path / "base.yaml").write_text("extends: tiny\nsteps: 7\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nname: mine\n")
    config = load_config(str(tmp_path / "mine.yaml"))
    assert (config.name, config.steps, config.rollout.n) == ("mine", 7, 4)
    (tmp_path / "base.yaml").write_text("extends: mine.yaml\n")
    with pytest.raises(ConfigError, match=r"extends itself"):
        load_config(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("text", ["- a\n- b\n", ""])
def test_a_file_that_is_no_mapping(tmp_path, text):
    (tmp_path / "list.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"list\.yaml: expected a mapping"):
        load_config(str(tmp_path / "list.yaml"))


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"quickstrt.*did you mean quickstart"):
        load_config("quickstrt")


def test_broken_yaml_names_its_file(tmp_path):
    (tmp_path / "broken.yaml").write_text("learner: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(str(tmp_path / "broken.yaml"))


def test_the_configuration_can_be_hashed():
    assert hash(load_config("tiny")) == hash(load_config("tiny"))
    assert LossConfig() == LossConfig()


def test_more_gpus_than_the_cluster_has_are_refused_and_sharing_is_offered():
    config = load_config("tiny")
    check_gpus(config, gpus=0)
    check_gpus(config, gpus=2)
    with pytest.raises(ConfigError, match=r"but the cluster has 1: .*gpu_share=0\.4"):
        check_gpus(config, gpus=1)
    check_gpus(load_config("tiny", ["rollout.gpu_share=0.4", "learner.gpu_share=0.6"]), gpus=1)


def test_ranks_never_share_a_gpu_nor_do_parts_of_a_model():
    with pytest.raises(ConfigError, match=r"learner\.gpu_share=0\.5: two ranks"):
        load_config("tiny", ["learner.ranks=2", "learner.gpu_share=0.5"])
    with pytest.raises(ConfigError, match=r"rollout\.gpu_share=0\.5: .*whole"):
        load_config("tiny", ["rollout.tensor_parallel_size=2", "rollout.gpu_share=0.5"])
