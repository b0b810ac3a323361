"""``pinrec forget-user`` asks a running service to forget a user, for good."""

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


def forget_user(
    user: Annotated[str, typer.Argument(help="Who is to be forgotten: a user id.")],
    at: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", help="Unix time up to which, inclusive, all is forgotten; by default now."),
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
    """Forget a user: no recommendation uses what happened until now, and the next batch leaves it out.

    It lasts, whatever repeated or late events come. What the user does afterwards begins a new history.
    """
    from pinrec_client.text import parse_id

    from pinrec_cli.client_errors import connected
    from pinrec_cli.console import print_json, stdout

    user_id = parse_id(user, string_ids=string_ids)
    with connected(
        url, timeout=timeout, tls=tls, root_certificates=root_certificates, certificate=certificate, key=key
    ) as client:
        until = client.forget_user(user_id, at=at)
    if json_:
        print_json({"user_id": user_id, "forgotten_at": until})
    else:
        stdout.print(f"forgot user {user_id} up to {until}", markup=False)
