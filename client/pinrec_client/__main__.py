"""The client's own command line: ``python -m pinrec_client recommend 17 --budget like=.7,neutral=.3``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from pinrec_client.channel import DEFAULT_TIMEOUT, DEFAULT_URL
from pinrec_client.errors import InvalidRequestError, PinRecClientError
from pinrec_client.sync import PinRecClient
from pinrec_client.text import API_KEY, api_key, document, history_of, parse_budget, parse_id, tls_files
from pinrec_client.types import Event, RecommendRequest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 1 when the service failed, or 2 when the request is malformed."""
    options = _parser().parse_args(arguments)
    try:
        tls = tls_files(options.tls, options.root_certificates, options.certificate, options.key)
        with PinRecClient(options.url, timeout=options.timeout, tls=tls, api_key=api_key()) as client:
            options.run(client, options)
    except PinRecClientError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequestError) else 1
    return 0


def _recommend(client: PinRecClient, options: argparse.Namespace) -> None:
    user_id = parse_id(options.user, string_ids=options.string_ids)
    request = RecommendRequest(
        user_id=user_id,
        num_items=options.num_items,
        budget=options.budget and parse_budget(options.budget),
        surface=options.surface,
        query=options.query,
        exclude_seen=options.exclude_seen,
        request_time=options.request_time,
        seed=options.seed,
        strength=options.strength,
    )
    answer = client.send(request)
    if options.json:
        print(json.dumps(document(user_id, answer)))
        return
    print(f"user {user_id}, release {answer.release}, {history_of(answer.history_source, answer.history_unavailable)}")
    for item in answer.items:
        print(f"{item.rank:>5}  {item.item_id!s:<24}  {item.outcome:<16}  {item.score:+.4f}")


def _log_event(client: PinRecClient, options: argparse.Namespace) -> None:
    event = Event(
        user_id=parse_id(options.user, string_ids=options.string_ids),
        action=options.action,
        timestamp=int(time.time()) if options.timestamp is None else options.timestamp,
        item_id=None if options.item is None else parse_id(options.item, string_ids=options.string_ids),
        query=options.query,
        surface=options.surface,
    )
    stored = client.log_events([event])
    print(json.dumps({"event_id": event.event_id, "stored": stored}) if options.json else f"stored {stored} event")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("user", metavar="USER", help="user id; an integer where it looks like one")
    common.add_argument("--url", default=DEFAULT_URL, help="host:port of the service, or of several replicas with "
                        "commas between them (default %(default)s)")  # fmt: skip
    common.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT, help="seconds (default %(default)s)")
    common.add_argument("--tls", action="store_true", help="use TLS")
    common.add_argument("--root-certificates", metavar="PEM", help="use TLS, trusting these certificates")
    common.add_argument("--certificate", metavar="PEM", help="use TLS, showing this certificate and chain")
    common.add_argument("--key", metavar="PEM", help="private key of --certificate (default: in the same file)")
    common.add_argument("--string-ids", action="store_true", help="take ids as text even where they look like integers")
    common.add_argument("--json", action="store_true", help="print JSON")

    parser = argparse.ArgumentParser(
        prog="pinrec-client",
        description="Ask a PinRec service, or write to it.",
        epilog=f"Example: pinrec-client recommend 17 --num-items 5 --url a.example:8001,b.example:8001. The API key, "
        f"where the service wants one, is read from the environment variable {API_KEY}.",
    )
    commands = parser.add_subparsers(required=True)

    recommend = commands.add_parser("recommend", parents=[common], help="items for a user")
    recommend.add_argument("--num-items", type=int, help="how many items")
    recommend.add_argument("--budget", metavar="OUTCOME=WEIGHT,…", help="weights summing to 1: like=.7,neutral=.3")
    recommend.add_argument("--surface", help="where the items will be shown")
    recommend.add_argument("--query", help="search with this text")
    recommend.add_argument("--exclude-seen", action="store_true", default=None, help="leave out what the user has seen")
    recommend.add_argument("--request-time", type=int, metavar="SECONDS", help="Unix time to answer as of")
    recommend.add_argument("--seed", type=int, help="make sampling repeatable")
    recommend.add_argument("--strength", type=float, help="how strongly outcomes steer: 0 not at all, 1 as trained")
    recommend.set_defaults(run=_recommend)

    log_event = commands.add_parser("log-event", parents=[common], help="write one event of a user")
    log_event.add_argument("action", metavar="ACTION", help="what the user did")
    log_event.add_argument("--item", metavar="ITEM", help="id of the item acted on")
    log_event.add_argument("--query", help="text of the search")
    log_event.add_argument("--surface", default="", help="where it happened")
    log_event.add_argument("--timestamp", type=int, metavar="SECONDS", help="Unix time (default: now)")
    log_event.set_defaults(run=_log_event)
    return parser


if __name__ == "__main__":
    sys.exit(main())
