"""Other kinds of log through the whole path: queries and surfaces, string ids, no real-time store."""

from __future__ import annotations

import json
import time

import pytest
from pinrec_client import Event, UnavailableError

from pinrec_core.dataset.sequences import iter_histories
from tests.end_to_end.conftest import make_release, pinrec, serving

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def trivago(data_root, tmp_path_factory):
    """Items and queries in one sequence, real query texts, a surface per country and device."""
    prepare = ["--preset", "trivago", "--data", data_root]
    return make_release(tmp_path_factory.mktemp("trivago"), prepare, epochs=2)


def test_search_on_a_surface_with_the_text_and_with_its_embedding(trivago, tmp_path):
    from pinrec_core.representations.text_encoder import text_encoder

    manifest = json.loads((trivago.dataset / "dataset.json").read_text())
    surface = manifest["surfaces"][1]
    user = next(user for user, history in iter_histories(trivago.signals / "sequences") if len(history) > 5)
    with serving(trivago, tmp_path, "--realtime", tmp_path / "store") as server, server.client() as client:
        now = manifest["last_timestamp"] + 60
        common = {"num_items": 50, "surface": surface, "request_time": now}
        plain = client.recommend(user, **common)
        berlin = client.recommend(user, query="Berlin, Germany", **common)
        rio = client.recommend(user, query="Rio de Janeiro, Brazil", **common)
        assert len({plain.items, berlin.items, rio.items}) == 3

        # The text and its own embedding are the same query, but for the key, which queries do not use.
        vector = text_encoder(manifest["text_encoder"]).encode(["Berlin, Germany"])[0]
        by_vector = client.recommend(user, query_embedding=vector, **common)
        assert [i.item_id for i in by_vector.items] == [i.item_id for i in berlin.items]

        # A search that was logged is the last thing the user did.
        client.log_events(
            [Event(user_id=user, action="search_for_poi", query="Berlin, Germany", timestamp=now - 1, surface=surface)]
        )
        assert client.recommend(user, **common).items != plain.items

        cold = {
            s: client.recommend(10**12, num_items=50, surface=s, request_time=now) for s in manifest["surfaces"][1:4]
        }
        assert len({answer.items for answer in cold.values()}) > 1


def test_string_ids_and_a_synthetic_log(tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("synthetic")
    log = folder / "log"
    pinrec("synth", "--out", log, "--users", 300, "--items", 500, "--events", 20_000, "--string-ids", "--seed", 3)
    prepared = make_release(folder, ["--config", log / "dataset.toml"], epochs=1)
    user = next(user for user, history in iter_histories(prepared.signals / "sequences") if len(history) > 5)
    assert isinstance(user, str)
    with serving(prepared, tmp_path, "--realtime", tmp_path / "store") as server, server.client() as client:
        answer = client.recommend(user, num_items=40)
        ids = [item.item_id for item in answer.items]
        assert len(set(ids)) == 40
        assert all(isinstance(i, str) for i in ids)
        assert (answer.history_source, answer.history_unavailable) == ("batch", "")
        nobody = client.recommend("nobody", num_items=5)
        assert len(nobody.items) == 5
        assert nobody.history_source == "none"
        action = answer.items[0].outcome
        now = int(time.time())
        client.log_events([Event(user_id=user, item_id=ids[0], action=action, timestamp=now)])
        unseen = client.recommend(user, num_items=400, exclude_seen=True, request_time=now + 1)
        assert ids[0] not in [item.item_id for item in unseen.items]
        assert unseen.history_source == "both"


def test_serving_goes_on_without_a_real_time_store(ml100k, tmp_path):
    with serving(ml100k, tmp_path, "--batch-only") as server, server.client() as client:
        assert len(client.recommend(17, num_items=10).items) == 10
        with pytest.raises(UnavailableError):
            client.log_events([Event(user_id=17, item_id=50, action="like", timestamp=int(time.time()))], timeout=2)
        assert server.stop() == 0
