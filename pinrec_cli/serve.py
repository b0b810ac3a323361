"""``pinrec serve`` runs the real Triton Inference Server with one release: the ensemble, or one of its stages alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def serve(
    signals: Annotated[
        Path | None,
        typer.Option(
            help="Signals folder of a prepared dataset (DATASET/signals), where signal_fetch runs here.",
            show_default=False,
        ),
    ] = None,
    release: Annotated[Path | None, typer.Option(help="The release folder to serve.", show_default=False)] = None,
    releases: Annotated[
        Path | None,
        typer.Option(
            help="A folder of releases instead: serve the one that its `current` file names, and look again on SIGHUP.",
            show_default=False,
        ),
    ] = None,
    realtime: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="The real-time store: a folder, or redis://HOST:PORT/0, redis-cluster://HOST:PORT,HOST:PORT. The "
            "password of such a server is read from the environment variable PINREC_REDIS_PASSWORD.",
            show_default="SIGNALS/realtime",
        ),
    ] = None,
    durability: Annotated[
        str,
        typer.Option(
            help="What an acknowledged event survives: process, the end of the process; disk, a crash of the machine "
            "as well, for which the events that arrive together wait for the disk once."
        ),
    ] = "process",
    max_lateness: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="SECONDS", help="Refuse events that are further behind the clock.", show_default="no bound"
        ),
    ] = None,
    batch_only: Annotated[
        bool, typer.Option("--batch-only", help="Serve without a real-time store: no event is read or accepted.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            help="Serve one stage alone, for ensembles elsewhere: signal_fetch, id_embedder, generator, "
            "faiss_retrieval.",
            show_default="the ensemble",
        ),
    ] = None,
    remote: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE=HOST:PORT[,MS]",
            help="A stage runs elsewhere, in a `pinrec serve --only STAGE`, and answers within MS milliseconds "
            "(100 if not given). Repeatable.",
            show_default="all stages run here",
        ),
    ] = None,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535, help="Port for recommendations and events.")] = 8001,
    http_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port for the same over HTTP, and for health checks.")
    ] = 8000,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="Port for Prometheus metrics.")] = 8002,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every interface.")] = "127.0.0.1",
    front: Annotated[
        str,
        typer.Option(
            help="HAProxy between the clients and Triton, which refuses at once what is too much: haproxy, none, or "
            "auto, which takes it where it is installed."
        ),
    ] = "auto",
    max_in_flight: Annotated[
        int,
        typer.Option(min=1, help="With a front: requests that are worked on at once. More wait, then are refused."),
    ] = 64,
    latency_ms: Annotated[
        float,
        typer.Option(min=1.0, help="With a front: while it refuses requests, it lets in what is served within this."),
    ] = 150.0,
    queue_ms: Annotated[
        int,
        typer.Option(min=1, help="With a front: milliseconds to wait for a place before a request is refused."),
    ] = 15,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            help="Serve all ports over TLS: a PEM file of certificate, chain and private key.",
            envvar="PINREC_TLS_CERTIFICATE",
            show_default=False,
        ),
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            help="With TLS: take only clients with a certificate of these authorities; health over HTTP needs none.",
            envvar="PINREC_TLS_CLIENT_CA",
            show_default=False,
        ),
    ] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            help="Answer only calls with a key: a file of SHA-256 sums and names, one per line, as sha256sum writes.",
            envvar="PINREC_API_KEYS",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the generator runs: cpu, cuda, cuda:1.")] = "cpu",
    gpu_precision: Annotated[
        str, typer.Option(help="Number format of the generator on a GPU: fp16, bf16, fp32.")
    ] = "fp16",
    tuning: Annotated[
        Path | None,
        typer.Option(
            help="What `pinrec tune` found for this machine; --threads, --instances and --compiled count more.",
            show_default="tuning.toml in RELEASES, or beside RELEASE, if it is there",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of each stage process.", show_default="as tuned, or half of the cores"),
    ] = None,
    instances: Annotated[
        list[str] | None, typer.Option(help="Processes of a stage, e.g. generator=2. Repeatable.", show_default=False)
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compiled/--uncompiled",
            help="Whether the generator runs its compiled program, where there is one for this machine.",
            show_default="as tuned, or compiled",
        ),
    ] = None,
    model_repository: Annotated[
        Path | None,
        typer.Option(help="Folder of the model templates.", show_default="model_repository beside the package"),
    ] = None,
    log_dir: Annotated[
        Path | None, typer.Option(help="Folder for the logs.", show_default="a temporary folder of this user")
    ] = None,
    log_format: Annotated[
        str, typer.Option(help="text, or json: one object a line, of this command and of the stages in triton.log.")
    ] = "text",
    recall_every: Annotated[
        int, typer.Option(min=0, help="Measure the recall of the index on one in so many requests; 0 for none.")
    ] = 1000,
    otlp: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send traces to an OpenTelemetry collector, such as http://127.0.0.1:4318/v1/traces.",
            show_default="no traces",
        ),
    ] = None,
    trace_every: Annotated[
        int, typer.Option(min=1, help="With --otlp: trace one in so many requests, and all with a traceparent.")
    ] = 1000,
    drain_timeout: Annotated[
        float, typer.Option(min=0.0, help="Seconds in which accepted requests may finish when serving stops.")
    ] = 30.0,
    stall_timeout: Annotated[
        float, typer.Option(min=1.0, help="Seconds of work on one batch after which a stage is ended and loaded again.")
    ] = 30.0,
    triton: Annotated[
        str, typer.Option(help="Which Triton: image (/opt/tritonserver), wheel (nvidia-pytriton), or auto.")
    ] = "auto",
    json_: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON when requests can be answered.")
    ] = False,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            help="After --: a command to run once requests can be answered; serving ends with it, with its exit code, "
            "and it ends with serving."
        ),
    ] = None,
) -> None:
    """Serve a release: start Triton, load the ensemble, say where it listens, drain and stop on SIGTERM or Ctrl-C.

    Example: pinrec serve --releases releases --signals data/ml100k/signals

    A stage as a service of its own, here the ID embedder on port 8101, and an ensemble that calls it:

    pinrec serve --releases releases --only id_embedder --grpc-port 8101 --http-port 8100 --metrics-port 8102

    pinrec serve --releases releases --signals data/ml100k/signals --remote id_embedder=127.0.0.1:8101
    """
    import logging
    from functools import partial

    from pinrec_cli.console import print_json, stderr, stdout
    from pinrec_cli.serve_options import front_program, serving_options
    from pinrec_core.errors import ConfigError, PinRecError, require
    from pinrec_core.release.current import current_release
    from pinrec_core.release.manifest import ReleaseManifest
    from pinrec_serving.companion import Companion
    from pinrec_serving.front import Front, FrontOptions, Tls, private_endpoint
    from pinrec_serving.installation import TritonSource
    from pinrec_serving.log_files import default_log_folder
    from pinrec_serving.logs import LogFormat, start_logging
    from pinrec_serving.model_repository import default_templates
    from pinrec_serving.runtime import Endpoint, Tracing, TritonServer
    from pinrec_serving.service import run_service
    from pinrec_serving.tuning import tuned_setting

    if (release is None) == (releases is None):
        raise ConfigError("expected exactly one of --release, --releases")
    require(log_format in set(LogFormat), "--log-format", log_format, f"one of {', '.join(LogFormat)}")
    require(triton in set(TritonSource), "--triton", triton, f"one of {', '.join(TritonSource)}")
    report: Callable[[str], None] = partial(stderr.print, soft_wrap=True)
    warn: Callable[[str], None] = partial(stderr.print, "warning:", soft_wrap=True)
    log = logging.getLogger("pinrec_serving")
    if log_format == LogFormat.JSON:
        start_logging(LogFormat.JSON, stage="owner")
        report, warn = log.info, log.warning
    tuned_beside = releases if releases is not None else (release or Path()).resolve().parent
    options = serving_options(
        signals=signals,
        realtime=realtime,
        durability=durability,
        max_lateness=max_lateness,
        batch_only=batch_only,
        only=only,
        remote=remote or [],
        device=device,
        gpu_precision=gpu_precision,
        setting=tuned_setting(tuning, beside=tuned_beside, warn=warn),
        threads=threads,
        instances=instances or [],
        compiled=compiled,
        recall_every=recall_every,
    )
    if tls_client_ca is not None and tls_certificate is None:
        raise ConfigError("--tls-client-ca: expected --tls-certificate with it")
    front_options = FrontOptions(
        max_in_flight=max_in_flight,
        latency_ms=latency_ms,
        queue_ms=queue_ms,
        tls=None if tls_certificate is None else Tls(certificate=tls_certificate, client_ca=tls_client_ca),
        api_keys=api_keys,
    )
    program = front_program(front, front_options, alone=only is not None, warn=warn)
    endpoint = Endpoint(host=host, grpc_port=grpc_port, http_port=http_port, metrics_port=metrics_port)
    inner = endpoint if program is None else private_endpoint()
    log_folder = log_dir or default_log_folder(grpc_port)
    server = TritonServer(
        endpoint=inner,
        log_folder=log_folder,
        source=TritonSource(triton),
        log_format=LogFormat(log_format),
        tracing=None if otlp is None else Tracing(url=otlp, every=trace_every),
    )

    def ready(served: ReleaseManifest) -> None:
        release_id = served.release_id
        if json_:
            print_json(
                {
                    "release": release_id,
                    "grpc": endpoint.grpc,
                    "http": endpoint.http,
                    "metrics": endpoint.metrics,
                    "log": str(server.log_file),
                }
            )
        else:
            stdout.print(f"serving {f'{only} of ' if only else ''}release {release_id}", soft_wrap=True)
            stdout.print(f"  gRPC     {endpoint.grpc}")
            stdout.print(f"  HTTP     {endpoint.http}")
            stdout.print(f"  metrics  {endpoint.metrics}")
            stdout.print(f"  log      {server.log_file}", soft_wrap=True)
            stdout.print("Ctrl-C drains and stops it.")
        stdout.file.flush()
        if command:
            companion.start(command)

    companion = Companion()
    try:
        with companion:
            run_service(
                server=server,
                front=None
                if program is None
                else Front(program, front_options, outer=endpoint, inner=inner, log_folder=log_folder, report=report),
                templates=model_repository or default_templates(),
                options=options,
                choose_release=lambda: release if release is not None else current_release(releases or Path()),
                drain_timeout=drain_timeout,
                stall_timeout=stall_timeout,
                ready=ready,
                finished=companion.has_ended,
                report=report,
            )
    except PinRecError as error:
        if log_format != LogFormat.JSON:
            raise
        log.critical("%s", error)
        raise typer.Exit(error.exit_code) from None
    if companion.exit_code:
        raise typer.Exit(companion.exit_code)
