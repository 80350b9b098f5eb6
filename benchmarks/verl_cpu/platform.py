"""A CPU platform for verl, and what verl 0.9.1 takes for granted that is not so here."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
import torch.distributed
from verl.plugin.platform import PlatformBase, PlatformRegistry
from verl.utils import import_utils


def _device_module() -> ModuleType:
    """A stand-in for `torch.cuda`: `torch.cpu`, what it lacks as no-ops or process memory."""
    module = ModuleType("torch_cpu_as_device")
    vars(module).update({name: value for name, value in vars(torch.cpu).items() if not name.startswith("__")})

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def resident(*_: Any) -> int:
        return psutil.Process().memory_info().rss

    def free_and_total(*_: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    ignored = ["empty_cache", "ipc_collect", "set_device", "synchronize", "reset_peak_memory_stats"]
    ignored += ["set_per_process_memory_fraction", "manual_seed", "manual_seed_all"]
    measured = ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved")
    vars(module).update(dict.fromkeys(ignored, nothing) | dict.fromkeys(measured, resident))
    vars(module).update(
        mem_get_info=free_and_total,
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        get_device_name=lambda *_: "cpu",
        get_rng_state=lambda *_: torch.get_rng_state(),
        set_rng_state=lambda state, *_: torch.set_rng_state(state),
    )
    return module


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """Ray is told of one GPU that does not exist, since verl places its workers by that resource."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _device_module()

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return torch.device("cpu")  # verl hands it both to `.to()` and to `torch.device()`

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False  # weights then travel through shared memory

    def rollout_env_vars(self) -> dict[str, str]:
        names = ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND")
        return {name: os.environ[name] for name in names if name in os.environ}

    def cudart(self) -> Any:
        return None


def _accept_one_gloo_for_both() -> None:
    """verl asks for the back end `cpu:gloo,<device>:gloo`, which names the CPU twice here; torch refuses that."""
    original = torch.distributed.init_process_group

    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return original("cpu:gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)

    torch.distributed.init_process_group = init_process_group


def _find_vllm_under_its_cpu_name() -> None:
    """verl reads the version of the distribution `vllm`; the CPU build's distribution is called `vllm-cpu`."""
    original = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return f"{original('vllm-cpu')}+cpu"  # by which vLLM knows that it runs on CPUs

    importlib.metadata.version = version


def _do_without_trl() -> None:
    """Where trl is installed verl patches its model with a value head, which newer versions of trl no longer have."""
    import_utils.is_trl_available = lambda: False


_accept_one_gloo_for_both()
_find_vllm_under_its_cpu_name()
_do_without_trl()
