"""What the options of ``pinrec serve`` come to: those of the stages and those of the front, checked together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pinrec_core.config.sections import GpuPrecision
from pinrec_core.contract import PIPELINE, SIGNAL_FETCH
from pinrec_core.errors import ConfigError, DataError, require
from pinrec_core.store_location import store_location
from pinrec_serving.front import FrontChoice, FrontOptions, find_haproxy
from pinrec_serving.options import ServingOptions, default_threads, parse_instances, parse_remotes
from pinrec_serving.tuning import Setting


def serving_options(
    *,
    signals: Path | None,
    realtime: str | None,
    durability: str,
    max_lateness: int | None,
    batch_only: bool,
    only: str | None,
    remote: Sequence[str],
    device: str,
    gpu_precision: str,
    setting: Setting | None,
    threads: int | None,
    instances: Sequence[str],
    compiled: bool | None,
    recall_every: int,
) -> ServingOptions:
    """The stages that run here, on which data and how. What an option says counts more than the tuned ``setting``.

    Raises ``ConfigError`` for options that do not go together, ``DataError`` for a folder around the signals' own.
    """
    stages = {spec.name: spec for spec in PIPELINE}
    require(only is None or only in stages, "--only", only, f"one of {', '.join(stages)}", error=ConfigError)
    if only is not None and remote:
        raise ConfigError("--remote: expected none with --only")
    remotes = parse_remotes(remote)
    fetches = only in (None, SIGNAL_FETCH.name) and SIGNAL_FETCH.name not in remotes
    if fetches and signals is None:
        raise ConfigError("--signals is missing: expected the signals folder of a prepared dataset")
    if not fetches and (signals or realtime or batch_only):
        raise ConfigError("--signals, --realtime, --batch-only: expected none of them where signal_fetch is elsewhere")
    if signals is not None:
        require(not (signals / "signals").is_dir(), "--signals", str(signals), "the folder `signals` within it",
                error=DataError)  # fmt: skip
    require(not (batch_only and realtime), "--realtime", realtime, "no place of a store with --batch-only")
    place = None if realtime is None else store_location(realtime)
    require(gpu_precision in set(GpuPrecision), "--gpu-precision", gpu_precision, f"one of {', '.join(GpuPrecision)}")
    return ServingOptions(
        signals=signals,
        realtime=None if batch_only or signals is None else (place or signals / "realtime"),
        durability=durability,
        max_lateness=max_lateness,
        only=None if only is None else stages[only],
        remotes=remotes,
        device=device,
        gpu_precision=GpuPrecision(gpu_precision),
        threads=threads or (setting.threads if setting else default_threads()),
        compiled=compiled if compiled is not None else setting is None or setting.compiled,
        instances=(setting.instances if setting else {}) | parse_instances(instances),
        queue_delays=setting.queue_delays if setting else {},
        recall_every=recall_every,
    )


def front_program(choice: str, options: FrontOptions, *, alone: bool, warn: Callable[[str], None]) -> Path | None:
    """The program of the front; None where there is none, and ``warn`` is told what that means.

    A stage that is served ``alone`` has no front. Raises ``ConfigError`` where one is asked for all the same, and
    ``ServerError`` where one is needed and not installed.
    """
    require(choice in set(FrontChoice), "--front", choice, f"one of {', '.join(FrontChoice)}", error=ConfigError)
    if alone:
        if options.needed or choice == FrontChoice.HAPROXY:
            raise ConfigError("--front, --tls-certificate, --api-keys: expected none with --only, which has no front")
        return None
    program = find_haproxy(FrontChoice(choice), options)
    if program is None:
        if choice == FrontChoice.AUTO:
            warn("HAProxy is not installed (apt-get install haproxy): nothing bounds the requests in flight")
        warn("without a front, clients reach Triton itself, which a few malformed bytes can end: trusted ones only")
    return program
