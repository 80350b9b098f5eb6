"""Stop an install early when pip found the wrong build of torch: `python requirements/check_torch.py cpu` (or gpu)."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

ADVICE = {
    "cpu": (
        "pip found no CPU build of it. Tell pip where they are: set PIP_EXTRA_INDEX_URL to the CPU index named in "
        "PyTorch's install guide, or PIP_FIND_LINKS to a folder with the wheel; then `make clean setup`."
    ),
    "gpu": (
        "pip found a CPU build first. Unset PIP_EXTRA_INDEX_URL and PIP_FIND_LINKS if they lead to CPU builds; then "
        "`make clean gpu-setup`."
    ),
}


def main() -> None:
    target = sys.argv[1]
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit("error: torch is not installed; run `make setup` or `make gpu-setup`")
    # Read its version file instead of importing it: a CUDA build without its libraries does not import at all.
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    found = "gpu" if version["cuda"] else "cpu"
    if found != target:
        sys.exit(
            f"error: torch {version['__version__']} is a {found} build and this is a {target} setup. {ADVICE[target]}"
        )


if __name__ == "__main__":
    main()
