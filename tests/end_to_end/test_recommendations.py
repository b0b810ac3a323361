"""What a product service sees: the real ensemble, through the real client, on a release of MovieLens-100K."""

from __future__ import annotations

import json
import time
from collections import Counter

import numpy as np
import pytest
import tritonclient.grpc
from pinrec_client import Event, InvalidRequestError, RecommendRequest

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.release.current import current_release
from tests.end_to_end.conftest import pinrec, readme_commands

pytestmark = pytest.mark.triton

THEN = 900_000_000  # within the log's months of 1998


def item_ids(answer) -> list[int]:
    return [item.item_id for item in answer.items]


def histories(ml100k) -> dict[int, list[int]]:
    return {user: h.item_key.tolist() for user, h in iter_histories(ml100k.signals / "sequences")}


def test_exactly_as_many_distinct_items_as_asked_in_rank_order(client, ml100k):
    catalogue = set(ItemCatalogue.open(ml100k.dataset).item_key.tolist())
    for num_items in (1, 10, 137, 500):
        answer = client.recommend(17, num_items=num_items)
        ids = item_ids(answer)
        assert len(ids) == len(set(ids)) == num_items
        assert set(ids) <= catalogue
        scores = [item.score for item in answer.items]
        assert scores == sorted(scores, reverse=True)
        assert [item.rank for item in answer.items] == list(range(1, num_items + 1))


def test_default_number_of_items_and_the_release_that_answered(client, ml100k):
    answer = client.recommend(5)
    assert len(answer.items) == 100
    assert answer.release == current_release(ml100k.releases).name


def test_all_of_the_catalogue_when_more_is_asked(client, ml100k):
    size = len(ItemCatalogue.open(ml100k.dataset))
    assert len(client.recommend(3, num_items=2000).items) == size


def test_the_budget_decides_the_outcome_mix_exactly(client):
    for budget, expected in [
        ({"like": 0.7, "neutral": 0.3}, {"like": 70, "neutral": 30}),
        ({"dislike": 1.0}, {"dislike": 100}),
        ({"like": 0.335, "neutral": 0.333, "dislike": 0.332}, {"like": 34, "neutral": 33, "dislike": 33}),
    ]:
        answer = client.recommend(42, num_items=100, budget=budget, request_time=THEN)
        assert Counter(item.outcome for item in answer.items) == expected


def test_the_budget_changes_what_is_recommended(client):
    liked = item_ids(client.recommend(42, num_items=50, budget={"like": 1}, request_time=THEN))
    disliked = item_ids(client.recommend(42, num_items=50, budget={"dislike": 1}, request_time=THEN))
    assert set(liked) != set(disliked)


def test_users_get_different_items(client):
    answers = [frozenset(item_ids(client.recommend(u, num_items=20, request_time=THEN))) for u in (1, 50, 300, 700)]
    assert len(set(answers)) > 1


def test_an_unknown_user_gets_items_too(client):
    assert len(client.recommend(10**15, num_items=30).items) == 30


def test_seen_items_are_left_out_when_asked(client, ml100k):
    seen = histories(ml100k)
    user = max(seen, key=lambda u: len(seen[u]))
    answer = item_ids(client.recommend(user, num_items=200, exclude_seen=True))
    assert len(answer) == 200
    assert not set(answer) & set(seen[user])
    assert set(item_ids(client.recommend(user, num_items=200))) & set(seen[user])


def test_the_same_request_gets_the_same_answer(client):
    a, b = (client.recommend(99, num_items=50, seed=7, request_time=THEN) for _ in range(2))
    assert a == b


def test_an_event_changes_the_very_next_answer(client):
    """Also for a user the batch never saw, and not for a request as of an earlier time."""
    user, now = 4_000_000_001, int(time.time())
    cold = client.recommend(user, num_items=50, request_time=now + 10)
    assert (
        client.log_events([Event(user_id=user, item_id=i, action="like", timestamp=now) for i in (50, 172, 181)]) == 3
    )
    warm = client.recommend(user, num_items=50, request_time=now + 10)
    assert item_ids(warm) != item_ids(cold)
    unseen = item_ids(client.recommend(user, num_items=1000, request_time=now + 10, exclude_seen=True))
    assert not {50, 172, 181} & set(unseen)
    # With one seed: without, what is drawn differs from user to user.
    earlier = client.recommend(user, num_items=50, request_time=now - 10, seed=7)
    as_before = client.recommend(user + 1, num_items=50, request_time=now - 10, seed=7)
    assert item_ids(earlier) == item_ids(as_before)


def test_an_event_sent_twice_counts_once(client):
    user, now = 4_000_000_100, int(time.time())
    event = Event(user_id=user, item_id=50, action="like", timestamp=now)
    client.log_events([event])
    once = client.recommend(user, num_items=50, request_time=now + 5)
    client.log_events([event, event])
    assert client.recommend(user, num_items=50, request_time=now + 5) == once


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surface": "moon"}, r"surface='moon': expected"),
        ({"budget": {"liked": 1.0}}, r"budget_outcome\[0\]='liked'.*like.*neutral.*dislike"),
        ({"num_items": 1_000_000}, r"num_items=1000000: expected .*3000"),
        ({"user_id": "seventeen"}, r"user_id"),
        ({"query_embedding": [0.1, 0.2]}, r"query_embedding.*256"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(client, changes, message):
    with pytest.raises(InvalidRequestError, match=message):
        client.recommend(**({"user_id": 1} | changes))


def raw_request(url: str, **tensors: np.ndarray):
    """Bypass the client's own checks: what any gRPC caller could send."""
    types = {"int64": "INT64", "int32": "INT32", "float32": "FP32", "object": "BYTES", "bool": "BOOL"}
    inputs = []
    for name, values in tensors.items():
        tensor = tritonclient.grpc.InferInput(name, list(values.shape), types[str(values.dtype)])
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    with tritonclient.grpc.InferenceServerClient(url) as triton:
        return triton.infer("pinrec", inputs, client_timeout=30)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("budget", np.array([[0.5, 0.5]], np.float32), "budget"),
        ("budget", np.array([[0.5, np.nan, 0.5]], np.float32), "budget"),
        ("budget", np.array([[-0.5, 0.5, 1.0]], np.float32), "budget"),
        ("budget", np.array([[0.5, 0.5, 0.5]], np.float32), "sum"),
        ("num_items", np.array([[0]], np.int32), "num_items=0"),
        ("seed", np.array([[-1]], np.int64), "seed=-1"),
        ("request_time", np.array([[-5]], np.int64), "request_time=-5"),
    ],
)
def test_the_server_checks_what_a_caller_did_not(ml100k_server, name, values, message):
    with pytest.raises(tritonclient.grpc.InferenceServerException, match=message) as error:
        raw_request(ml100k_server.url, user_id=np.array([[1]]), **{name: values})
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_several_users_in_one_request_are_refused_with_advice(ml100k_server):
    said = r"user_id has 3 rows: expected 1 per request|shape: expected 1 row"  # by the stage, or by the front
    with pytest.raises(tritonclient.grpc.InferenceServerException, match=said):
        raw_request(ml100k_server.url, user_id=np.array([[1], [2], [3]]))


def test_good_and_bad_requests_in_flight_together_get_what_each_gets_alone(client):
    """All at once, so that the dynamic batchers group them; bad ones among them, of the same form as good ones."""
    requests, bad = [], set()
    for n in range(60):
        surface = "moon" if n % 7 == 3 else ""
        bad |= {n} if surface else set()
        requests.append(
            RecommendRequest(user_id=1 + n * 13, num_items=5 + n, surface=surface, seed=n, request_time=THEN)
        )
    together = client.recommend_many(requests)
    for n, (request, answer) in enumerate(zip(requests, together, strict=True)):
        if n in bad:
            assert isinstance(answer, InvalidRequestError)
            continue
        (alone,) = client.recommend_many([request])
        assert Counter(i.outcome for i in answer.items) == Counter(i.outcome for i in alone.items)
        # float32 in another batch size differs in the last bits: near-equal scores may change places
        assert [i.score for i in answer.items] == pytest.approx([i.score for i in alone.items], abs=1e-4)
        assert len(set(item_ids(answer)) & set(item_ids(alone))) >= 0.95 * request.num_items


def test_requests_in_flight_together_were_batched(ml100k_server, client):
    """The answer above would hold for a server that batches nothing: look at its own statistics."""
    client.recommend_many([RecommendRequest(user_id=u, num_items=10) for u in range(1, 41)])
    with tritonclient.grpc.InferenceServerClient(ml100k_server.url) as triton:
        statistics = triton.get_inference_statistics(as_json=True)["model_stats"]
    largest = {
        model["name"].split("__")[0]: max(int(b["batch_size"]) for b in model.get("batch_stats", [{"batch_size": 0}]))
        for model in statistics
    }
    assert largest["generator"] > 1, largest
    assert largest["faiss_retrieval"] > 1, largest


def test_recommend_prints_titles_and_json(ml100k_server, ml100k):
    common = ["recommend", 1, 2, "--num-items", 3, "--url", ml100k_server.url, "--titles", ml100k.dataset]
    table = pinrec(*common, "--budget", "like=0.7,neutral=0.3").stdout
    catalogue = ItemCatalogue.open(ml100k.dataset)
    documents = json.loads(pinrec(*common, "--json", "--budget", "like=0.7,neutral=0.3").stdout)
    assert [d["user_id"] for d in documents] == [1, 2]
    for document in documents:
        for item in document["items"]:
            row = int(catalogue.rows_of(np.array([item["item_id"]]))[0])
            assert item["title"] == catalogue.title(row)
            assert item["title"][:12] in table


def test_the_readmes_requests_work_as_written(ml100k_server, ml100k):
    root = ml100k.dataset.parent.parent
    requests = [c for c in readme_commands() if c[0] in ("recommend", "log-event") and "--url" not in c]
    assert len(requests) == 3
    answers = [pinrec(*command, "--url", ml100k_server.url, cwd=root).stdout for command in requests]
    assert answers[0] != answers[2]


def test_log_event_from_the_command_line(ml100k_server, client):
    user, now = 4_000_000_200, int(time.time())
    cold = client.recommend(user, num_items=50, request_time=now + 5)
    pinrec("log-event", user, "like", "--item", 172, "--timestamp", now, "--url", ml100k_server.url)
    assert client.recommend(user, num_items=50, request_time=now + 5) != cold


def test_a_command_that_cannot_succeed_says_why_in_one_line(ml100k_server, tmp_path):
    refused = pinrec("recommend", 1, "--budget", "like=0.2", "--url", ml100k_server.url, expect=2)
    assert "sum to 1" in refused.stderr
    assert "Traceback" not in refused.stderr
    nobody = pinrec("recommend", 1, "--url", "127.0.0.1:9", "--timeout", 2, expect=6)
    assert "Traceback" not in nobody.stderr
    missing = pinrec("serve", "--release", tmp_path, "--signals", tmp_path, expect=4)
    assert "not a release" in missing.stderr
