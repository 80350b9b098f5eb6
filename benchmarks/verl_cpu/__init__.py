"""What verl 0.9.1 needs to run its own trainer on CPUs: a platform, an engine registration, a vLLM worker extension.

Only for the side-by-side benchmark. verl loads `verl_cpu.platform` and `verl_cpu.engine` in each of its processes,
because VERL_USE_EXTERNAL_MODULES names them; nothing of Rapport's own imports this package.
"""
