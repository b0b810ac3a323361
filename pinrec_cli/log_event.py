"""``pinrec log-event`` writes one event to a running service. The user's next request takes it into account."""

from __future__ import annotations

from typing import Annotated

import typer

from pinrec_cli.client_options import (
    DEFAULT_TIMEOUT,
    DEFAULT_URL,
    Certificate,
    Key,
    RootCertificates,
    StringIds,
    Timeout,
    Url,
    UseTls,
)


def log_event(
    user: Annotated[str, typer.Argument(help="Who acted: a user id.")],
    action: Annotated[str, typer.Argument(help="What the user did, as the log names it: like, click, search.")],
    item: Annotated[
        str | None, typer.Option(help="The item that the user acted on; a search has --query instead.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="The text of a search.")] = None,
    surface: Annotated[str, typer.Option(help="Where it happened, as the log names it.")] = "",
    timestamp: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="Unix time of the event; by default now.")
    ] = None,
    event_id: Annotated[
        str | None,
        typer.Option(
            help="Identity of the event, together with user and --timestamp: an event that repeats all three is stored "
            "once. By default a new one."
        ),
    ] = None,
    string_ids: StringIds = False,
    url: Url = DEFAULT_URL,
    timeout: Timeout = DEFAULT_TIMEOUT,
    tls: UseTls = False,
    root_certificates: RootCertificates = None,
    certificate: Certificate = None,
    key: Key = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write one event of a user to a running service."""
    import time

    from pinrec_client import Event
    from pinrec_client.text import parse_id

    from pinrec_cli.client_errors import connected
    from pinrec_cli.console import print_json, stdout

    with connected(
        url, timeout=timeout, tls=tls, root_certificates=root_certificates, certificate=certificate, key=key
    ) as client:
        identity = {} if event_id is None else {"event_id": event_id}
        event = Event(
            user_id=parse_id(user, string_ids=string_ids),
            action=action,
            timestamp=int(time.time()) if timestamp is None else timestamp,
            item_id=None if item is None else parse_id(item, string_ids=string_ids),
            query=query,
            surface=surface,
            **identity,
        )
        stored = client.log_events([event])
    if json_:
        print_json({"event_id": event.event_id, "stored": stored})
    else:
        stdout.print(f"stored event {event.event_id}", markup=False)
