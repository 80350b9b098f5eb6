"""From a deployment's configuration to its model. Needs no Ray, so that a command may load a model by itself."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from reward_servers.failures import root_cause
from reward_servers.service_config import DeploymentConfig, ServiceConfigError


def load_model(config: DeploymentConfig) -> Any:
    """Import the class named by `loader` and load its weights.

    Raises:
        ServiceConfigError: there is no such class. Errors of `load` itself pass through.
    """
    module, _, name = config.loader.partition(":")
    try:
        model_class = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ServiceConfigError(f"loader {config.loader!r} cannot be imported: {root_cause(error)}") from error
    return model_class.load(Path(config.folder) if config.folder else None)
