"""verl's FSDP engine under the device name `cpu`; the class itself is verl's."""

from __future__ import annotations

from verl.workers.engine import EngineRegistry, FSDPEngineWithLMHead


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
class CpuFsdpEngine(FSDPEngineWithLMHead):
    """No reference policy is built in the benchmark, so nothing needs changing."""
