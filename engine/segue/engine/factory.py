"""The engine that the settings ask for."""

from __future__ import annotations

from segue.base.errors import SettingsError
from segue.base.logging import get_logger
from segue.engine.protocol import Engine
from segue.engine.settings import EngineSettings

log = get_logger("engine")


def make_engine(settings: EngineSettings) -> Engine:
    """An engine, not started. Sets what vLLM reads from the environment, which must happen before its import.

    Raises:
        SettingsError: vLLM or torch is not installed, or a simulated engine refuses its arguments.
    """
    if settings.kind == "simulated":
        from segue.engine.simulated.engine import SimulatedEngine

        return SimulatedEngine(settings)
    try:
        from segue.engine.vllm_config import apply_environment, hold_side_channel, resolve, vllm_environment

        settings = resolve(settings)
        if settings.tls is not None and settings.transport == "nixl":
            log.warning("kv_not_encrypted", transport="nixl", hint="see docs/security.md for what must contain it")
        nixl_port = hold_side_channel(settings.host) if settings.transport == "nixl" else 0
        apply_environment(vllm_environment(settings, nixl_port))
        if settings.kind == "inproc":
            from segue.engine.vllm_inproc import InprocEngine

            return InprocEngine(settings)
        from segue.engine.vllm_async import AsyncEngine

        return AsyncEngine(settings)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"a worker needs {error.name}, which is not installed; install 'segue[cpu]' or 'segue[cuda]'"
        ) from error
