"""``pinrec recommend`` asks a running service for items and prints them with their titles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from rich.table import Table

    from pinrec_core.dataset.catalogue import ItemCatalogue


def recommend(
    users: Annotated[list[str], typer.Argument(metavar="USER...", help="Whom to recommend to: one or more user ids.")],
    num_items: Annotated[
        int | None, typer.Option(help="Number of items per user; by default the release's own.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="OUTCOME=WEIGHT,...",
            help="Share of the items per outcome, summing to 1: like=0.7,neutral=0.3. Without it, outcomes get the "
            "share they have in the log.",
        ),
    ] = None,
    surface: Annotated[str | None, typer.Option(help="Where the items will be shown, as the log names it.")] = None,
    query: Annotated[
        str | None, typer.Option(help="The text of a search, which becomes the end of the user's history.")
    ] = None,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen", help="Leave out items that the user has acted on.")
    ] = False,
    request_time: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="Unix time of the request; by default now.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Make the outcomes drawn during generation repeatable.")] = None,
    strength: Annotated[
        float | None,
        typer.Option(min=0, help="How strongly outcomes steer: 0 not at all, 1 as trained.", show_default="calibrated"),
    ] = None,
    titles: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A release or a prepared dataset to read item titles from.")
    ] = None,
    string_ids: StringIds = False,
    url: Url = DEFAULT_URL,
    timeout: Timeout = DEFAULT_TIMEOUT,
    tls: UseTls = False,
    root_certificates: RootCertificates = None,
    certificate: Certificate = None,
    key: Key = None,
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON list, one entry per user.")] = False,
) -> None:
    """Recommend items to one or more users, from a running service."""
    from pinrec_client import PinRecClientError, RecommendRequest
    from pinrec_client.text import document, parse_budget, parse_id

    from pinrec_cli.client_errors import as_pinrec_error, connected
    from pinrec_cli.console import print_json, stdout
    from pinrec_core.dataset.catalogue import ItemCatalogue

    catalogue = None if titles is None else ItemCatalogue.open(titles)
    with connected(
        url, timeout=timeout, tls=tls, root_certificates=root_certificates, certificate=certificate, key=key
    ) as client:
        weights = None if budget is None else parse_budget(budget)
        requests = [
            RecommendRequest(
                user_id=parse_id(user, string_ids=string_ids),
                num_items=num_items,
                budget=weights,
                surface=surface,
                query=query,
                exclude_seen=exclude_seen or None,
                request_time=request_time,
                seed=seed,
                strength=strength,
            )
            for user in users
        ]
        answers = client.recommend_many(requests)

    documents = [document(r.user_id, answer) for r, answer in zip(requests, answers, strict=True)]
    for entry in documents:
        _add_titles(entry.get("items", []), catalogue)
    if json_:
        print_json(documents)
    else:
        for entry in documents:
            if "items" in entry:
                stdout.print(_table(entry, budget, with_titles=catalogue is not None))
    failed = [answer for answer in answers if isinstance(answer, PinRecClientError)]
    if failed:
        raise as_pinrec_error(failed[0])


def _add_titles(items: list[dict[str, Any]], catalogue: ItemCatalogue | None) -> None:
    """Adds the title to each item, or "" where the catalogue does not hold the item."""
    from pinrec_core.ids import IdKind, item_keys

    if catalogue is None or not items:
        return
    item_ids = [item["item_id"] for item in items]
    kind = IdKind.STRING if isinstance(item_ids[0], str) else IdKind.INT
    rows = catalogue.rows_of(item_keys(item_ids, kind))
    for item, row in zip(items, rows, strict=True):
        item["title"] = catalogue.title(int(row)) if row >= 0 else ""


def _table(entry: dict[str, Any], budget: str | None, *, with_titles: bool) -> Table:
    from pinrec_client.text import history_of
    from rich.markup import escape
    from rich.table import Table

    under = "" if budget is None else f", budget {budget}"
    caption = f"release {entry['release']}, {history_of(entry['history_source'], entry['history_unavailable'])}"
    table = Table(title=escape(f"user {entry['user_id']}{under}"), caption=escape(caption))
    table.add_column("rank", justify="right")
    table.add_column("item")
    if with_titles:
        table.add_column("title")
    table.add_column("outcome")
    table.add_column("score", justify="right")
    for item in entry["items"]:
        title = [escape(item["title"] or "")] if with_titles else []
        score = f"{item['score']:.4f}"
        table.add_row(str(item["rank"]), escape(str(item["item_id"])), *title, escape(item["outcome"]), score)
    return table
