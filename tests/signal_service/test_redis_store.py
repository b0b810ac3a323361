"""What the Redis store does when servers fail, with real ones. The contract is in ``test_store_contract.py``."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError

from benchmarks.signals.redis_server import (
    MISSING,
    RedisServer,
    cluster,
    cluster_location,
    free_port,
    installed,
    wait_for_cluster,
)
from pinrec_core.errors import ConfigError, StoreError
from signal_service.redis_codec import events_key, forgotten_key, time_bytes
from signal_service.redis_nodes import RedisOptions
from signal_service.redis_store import RedisEventStore
from signal_service.store import Durability
from tests.signal_service.store_oracle import event, whole

pytestmark = pytest.mark.skipif(not installed(), reason=MISSING)

QUICK = RedisOptions(connect_seconds=0.3, answer_seconds=0.3, breaker_failures=2, breaker_seconds=0.3)
KEPT = ("--appendonly", "yes", "--appendfsync", "always")
LOST, LATE, NOT_LET_IN = r"refused|closed|reset", r"[Tt]imeout", r"cannot be opened: .*(uthentication|password)"
Answer = TypeVar("Answer")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "server", *KEPT) as running:
        yield running


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[RedisServer]]:
    with cluster(tmp_path / "cluster", *KEPT) as running:
        yield list(running)


def eventually(ask: Callable[[], Answer], error: type[Exception] = StoreError) -> Answer:
    """What it answers once the store answers again."""
    until = time.monotonic() + 60
    while True:
        try:
            return ask()
        except error:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def ids(store: RedisEventStore, user: bytes = b"u") -> list[str]:
    return [e.event_id for e in store.read([whole(user)])[0].events]


def user_on(servers: list[RedisServer], number: int) -> bytes:
    """A user whose slot the numbered node of a fresh cluster serves."""
    users = (b"%d" % i for i in range(1000))
    return next(user for user in users if key_slot(events_key(user)) * len(servers) // 16_384 == number)


def test_a_killed_server_is_missed_at_once_and_found_again(server: RedisServer):
    with RedisEventStore.open(server.location, options=QUICK) as store:
        store.append([event("a", 1)])
        server.kill()
        for _ in range(QUICK.breaker_failures):
            with pytest.raises(StoreError, match=LOST):
                ids(store)
        with pytest.raises(StoreError, match="is not asked"):
            store.append([event("b", 2)])
        with pytest.raises(StoreError, match="is not asked"):
            list(store.user_keys())
        server.start()
        assert eventually(lambda: ids(store)) == ["a"]
        store.append([event("b", 2)])
        assert ids(store) == ["a", "b"]
    server.kill()
    with pytest.raises(StoreError, match="cannot be opened"):
        RedisEventStore.open(server.location, options=QUICK)


def test_a_server_that_hangs_is_not_waited_for_and_its_late_answers_are_not_mixed_up(server: RedisServer):
    with RedisEventStore.open(server.location, options=QUICK) as store:
        store.append([event("a", 1, b"a"), event("b", 2, b"b")])
        server.pause()
        with pytest.raises(StoreError, match=LATE):
            ids(store, b"a")
        with pytest.raises(StoreError, match=LATE):
            store.append([event("c", 3, b"a")])  # whether the server takes it later is open: appending again settles it
        with pytest.raises(StoreError, match="is not asked"):
            ids(store, b"a")
        with pytest.raises(StoreError, match=LATE):
            RedisEventStore.open(server.location, options=QUICK)
        server.resume()
        assert eventually(lambda: ids(store, b"b")) == ["b"]
        store.append([event("c", 3, b"a")])
        assert ids(store, b"a") == ["a", "c"]


def test_a_killed_node_of_a_cluster_is_missed_and_found_again(servers: list[RedisServer]):
    with RedisEventStore.open(cluster_location(servers), options=QUICK) as store:
        users = [user_on(servers, number) for number in range(3)]
        store.append([event("a", 1, user) for user in users])
        servers[1].kill()
        with pytest.raises(StoreError):
            ids(store, users[1])
        with pytest.raises(StoreError):
            store.append([event("b", 2, user) for user in users])
        servers[1].start()
        wait_for_cluster(servers)
        eventually(lambda: store.append([event("b", 2, user) for user in users]))
        assert [ids(store, user) for user in users] == [["a", "b"]] * 3
        assert sorted(store.user_keys()) == sorted(users)


def test_a_replica_takes_over_while_it_serves(servers: list[RedisServer], tmp_path: Path):
    """The killed primary does not come back; its replica has what reached it in time."""
    user = user_on(servers, 2)
    words = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000")
    with (
        RedisServer(tmp_path / "replica", *words) as replica,
        RedisEventStore.open(cluster_location(servers), options=QUICK) as store,
        replica.client() as client,
        servers[2].client() as primary,
    ):
        store.append([event("a", 1, user)])
        client.execute_command("CLUSTER MEET", "127.0.0.1", servers[0].port, servers[0].bus_port)
        name = primary.execute_command("CLUSTER MYID").decode()
        eventually(lambda: client.execute_command("CLUSTER REPLICATE", name), ResponseError)  # once they have met
        wait_until(lambda: client.info("replication").get("master_link_status") == "up")
        servers[2].kill()
        assert eventually(lambda: ids(store, user)) == ["a"]
        eventually(lambda: store.append([event("b", 2, user)]))
        assert ids(store, user) == ["a", "b"]


@pytest.mark.timeout(60)
def test_a_node_that_hangs_costs_one_time_out_and_not_one_for_each_command(servers: list[RedisServer]):
    """400 commands go to the node; one by one, they would wait for two minutes."""
    with RedisEventStore.open(cluster_location(servers), options=QUICK) as store:
        users = [b"%d" % i for i in range(600)]
        store.append([event("a", 1, user) for user in users])
        servers[2].pause()
        with pytest.raises(StoreError, match=LATE):
            store.read([whole(user) for user in users])
        servers[2].resume()
        wait_for_cluster(servers)
        found = eventually(lambda: store.read([whole(user) for user in users]))
        assert [[e.user_key for e in one.events] for one in found] == [[user] for user in users]


def test_slots_may_move_while_it_serves(servers: list[RedisServer]):
    """Before, while (``ASK``) and after (``MOVED``) the keys of a user go to another node."""
    user, other = user_on(servers, 0), user_on(servers, 1)
    slot = key_slot(events_key(user))
    with (
        RedisEventStore.open(cluster_location(servers), options=QUICK) as store,
        servers[0].client() as source,
        servers[1].client() as target,
    ):
        names = [client.execute_command("CLUSTER MYID").decode() for client in (source, target)]
        store.append([event("a", 1, user), event("a", 1, other)])
        store.forget(user, at=0)
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[0])
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[1])
        assert ids(store, user) == ["a"]
        keys = (events_key(user), forgotten_key(user))
        source.execute_command("MIGRATE", "127.0.0.1", servers[1].port, "", 0, 5000, "KEYS", *keys)
        found = store.read([whole(user), whole(other)])
        assert [[e.event_id for e in one.events] for one in found] == [["a"], ["a"]]
        assert found[0].forgotten_at == 0
        store.append([event("b", 2, user), event("b", 2, other), event("too old", 0, user)])
        for client in (target, source):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[1])
        store.append([event("c", 3, user), event("c", 3, other)])
        assert [ids(store, u) for u in (user, other)] == [["a", "b", "c"]] * 2


def test_the_password_is_asked_for_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    messages = []
    with RedisServer(tmp_path, "--requirepass", "correct-horse") as server:
        for wrong in (None, "battery-staple"):
            monkeypatch.delenv("PINREC_REDIS_PASSWORD", raising=False)
            if wrong:
                monkeypatch.setenv("PINREC_REDIS_PASSWORD", wrong)
            with pytest.raises(StoreError, match=NOT_LET_IN) as raised:
                RedisEventStore.open(server.location, options=QUICK)
            messages.append(str(raised.value))
        monkeypatch.setenv("PINREC_REDIS_PASSWORD", "correct-horse")
        with RedisEventStore.open(server.location, options=QUICK) as store:
            store.append([event("a", 1)])
            assert ids(store) == ["a"]
            server.kill()
            with pytest.raises(StoreError) as raised:
                ids(store)
            messages.append(str(raised.value))
    shown = "\n".join([*messages, caplog.text])
    assert "battery-staple" not in shown
    assert "correct-horse" not in shown


def test_a_user_of_the_server_needs_few_rights(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    """These are the commands that docs/signals.md names, and the keys."""
    rights = "+@connection +multi +exec +eval +get +set +zadd +zrangebylex +zrevrangebylex +zremrangebylex +scan"
    with server.client() as client:
        client.execute_command("ACL SETUSER", "pinrec", "on", ">secret", "~pinrec:*", *rights.split())
    monkeypatch.setenv("PINREC_REDIS_PASSWORD", "secret")
    where = server.location.replace("redis://", "redis://pinrec@")
    with RedisEventStore.open(where, options=QUICK) as store:
        store.append([event("a", 1), event("b", 2), event("c", 3)])
        store.remove([event("b", 2)])
        store.forget(b"u", at=1)
        assert ids(store) == ["c"]
        assert list(store.user_keys()) == [b"u"]
        assert list(store.forgotten()) == [(b"u", 1)]
    with pytest.raises(StoreError, match="must allow CONFIG GET"):
        RedisEventStore.open(where, options=QUICK, durability=Durability.DISK)


def test_what_a_crash_leaves_between_tombstone_and_removal_is_hidden(server: RedisServer):
    with server.client() as client, RedisEventStore.open(server.location, options=QUICK) as store:
        store.append([event("a", 1), event("b", 2), event("c", 3)])
        client.set(forgotten_key(b"u"), time_bytes(2))
        found = store.read([whole(), whole(limit=2), whole(until=3), whole(until=2)])
        assert [[e.event_id for e in one.events] for one in found] == [["c"], ["c"], [], []]
        assert {one.forgotten_at for one in found} == {2}
        store.forget(b"u", at=2)
        assert client.zcard(events_key(b"u")) == 1


def test_a_key_of_another_type_is_an_error_of_its_user_alone(server: RedisServer):
    with server.client() as client, RedisEventStore.open(server.location, options=QUICK) as store:
        client.set(events_key(b"text"), "x")
        client.rpush(forgotten_key(b"list"), "x")
        client.set(forgotten_key(b"short"), "x")
        client.zadd(events_key(b"foreign"), {"no event": 0})
        for _ in range(QUICK.breaker_failures + 1):  # it is an answer, so the breaker stays closed
            for user in (b"text", b"list"):
                for ask in (
                    lambda user=user: ids(store, user),
                    lambda user=user: store.append([event("a", 2, user)]),
                    lambda user=user: store.forget(user, at=1),
                ):
                    with pytest.raises(StoreError, match="WRONGTYPE"):
                        ask()
            for user in (b"short", b"foreign"):
                with pytest.raises(StoreError, match="stored"):
                    ids(store, user)
        store.append([event("a", 1)])
        assert ids(store) == ["a"]


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        (("--appendonly", "no"), False),
        (("--appendonly", "yes", "--appendfsync", "everysec"), False),
        (("--appendonly", "no", "--appendfsync", "always"), False),
        (KEPT, True),
    ],
)
def test_durable_on_disk_is_promised_only_where_the_server_keeps_it(tmp_path: Path, settings: tuple[str], fits: bool):
    with RedisServer(tmp_path, *settings) as server:
        if fits:
            with RedisEventStore.open(server.location, durability=Durability.DISK) as store:
                store.append([event("a", 1)])
        else:
            with pytest.raises(StoreError, match="expected appendonly=yes and appendfsync=always"):
                RedisEventStore.open(server.location, durability=Durability.DISK)


def test_every_node_of_a_cluster_has_to_keep_it(servers: list[RedisServer]):
    RedisEventStore.open(cluster_location(servers), durability=Durability.DISK).close()
    with servers[2].client() as client:
        client.config_set("appendfsync", "everysec")
    with pytest.raises(StoreError, match="everysec"):
        RedisEventStore.open(cluster_location(servers), durability=Durability.DISK)


def test_a_location_of_the_other_kind_is_an_error(server: RedisServer, servers: list[RedisServer]):
    with pytest.raises(StoreError, match="Cluster mode is not enabled"):
        RedisEventStore.open(server.location.replace("redis://", "redis-cluster://").replace("/0", ""))
    users = [user_on(servers, number) for number in range(3)]
    with RedisEventStore.open(servers[0].location) as store, pytest.raises(StoreError, match="MOVED"):
        store.append([event("a", 1, user) for user in users])
    with pytest.raises(ConfigError, match="expected one of"):
        RedisEventStore.open("memcached://127.0.0.1")


@pytest.mark.parametrize("name", ["connect_seconds", "answer_seconds", "max_connections", "breaker_failures"])
def test_options_without_a_bound_are_refused(name: str):
    with pytest.raises(ConfigError, match=f"{name}=0: expected"):
        RedisOptions(**{name: 0})


def test_connections_are_bounded_and_wait_for_one_another(server: RedisServer, servers: list[RedisServer]):
    options = RedisOptions(max_connections=2, answer_seconds=20)
    for where, asked in ((server.location, server), (cluster_location(servers), servers[0])):
        with RedisEventStore.open(where, options=options) as store, asked.client() as client:
            users = [b"%d" % i for i in range(50)]
            store.append([event("a", 1, user) for user in users])
            found: list[int] = []

            def read(store: RedisEventStore = store, found: list[int] = found, users: list[bytes] = users) -> None:
                for _ in range(20):
                    found.append(sum(len(one.events) for one in store.read([whole(user) for user in users])))

            threads = [threading.Thread(target=read) for _ in range(8)]
            for thread in threads:
                thread.start()
            most = 0
            while any(thread.is_alive() for thread in threads):
                most = max(most, sum(c["cmd"] != "client|list" for c in client.client_list()))
            assert found == [50] * 160
            assert most <= options.max_connections + 1  # one of a cluster may have read the topology


def test_several_ingest_replicas_write_the_same_users_at_once(servers: list[RedisServer]):
    """Each has a store of its own, and all of them send every event, as clients do who try again elsewhere."""
    users = [user_on(servers, number) for number in range(3)]
    events = [event(f"{i:02}", i // 2, user) for i in range(60) for user in users]
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with RedisEventStore.open(cluster_location(servers)) as store:
                for start in range(len(events)):
                    begin = (start * 7 + number * 45) % len(events)
                    store.append(events[begin : begin + 7])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with RedisEventStore.open(cluster_location(servers)) as store:
        for user in users:
            assert store.read([whole(user)])[0].events == [e for e in events if e.user_key == user]


def test_users_on_many_pages_are_listed_once_each(tmp_path: Path):
    users = {b"%d" % i for i in range(3500)}
    with RedisServer(tmp_path) as server, RedisEventStore.open(server.location) as store, server.client() as client:
        client.mset({f"of somebody else {i}": "" for i in range(3000)})
        store.append([event("a", 1, user) for user in users])
        for user in list(users)[:1200]:
            store.forget(user, at=0)
        assert sorted(store.user_keys()) == sorted(users)
        assert len(list(store.forgotten())) == 1200


def test_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, which makes the certificate")
    key, certificate, port = tmp_path / "key.pem", tmp_path / "certificate.pem", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True,
    )  # fmt: skip
    tls = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
           "--tls-auth-clients", "no")  # fmt: skip
    with RedisServer(tmp_path / "server", *tls):
        where = f"rediss://localhost:{port}"
        with pytest.raises(StoreError, match="certificate"):  # nobody has said that this one is to be trusted
            RedisEventStore.open(where, options=QUICK)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with RedisEventStore.open(where) as store:
            store.append([event("a", 1)])
            assert ids(store) == ["a"]
