"""A real Triton with the project's own configurations and stand-in stages, which need no model and no data."""

from __future__ import annotations

import datetime
import importlib.util
import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pinrec_core.contract import PIPELINE, SIGNAL_INGEST
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.ids import IdKind
from pinrec_core.release.format import Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.manifest import MANIFEST_FILE, HeldOut
from pinrec_core.release.publishing import publish
from pinrec_serving.deployment import Deployment
from pinrec_serving.front import FrontChoice, FrontOptions, find_haproxy
from pinrec_serving.installation import IMAGE_ROOT
from pinrec_serving.options import ServingOptions
from pinrec_serving.runtime import Endpoint, TritonServer
from tests.pinrec_core.conftest import dataset, run, serving

__all__ = ["dataset", "run", "serving"]

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


def free_endpoint() -> Endpoint:
    """An endpoint with three free ports. All three are held until each is known, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    grpc, http, metrics = (s.getsockname()[1] for s in sockets)
    for s in sockets:
        s.close()
    return Endpoint(grpc_port=grpc, http_port=http, metrics_port=metrics)


_STAND_INS = tempfile.TemporaryDirectory(prefix="pinrec-stand-ins-")


def stand_in_release(release_id: str) -> Path:
    """An empty folder, which is all that a stand-in stage wants of a release."""
    folder = Path(_STAND_INS.name) / release_id
    folder.mkdir(exist_ok=True)
    return folder


def manifest(kind: IdKind = IdKind.INT) -> DatasetManifest:
    return DatasetManifest(
        name="stand-in",
        user_id_kind=kind,
        item_id_kind=kind,
        outcomes=("click",),
        query_actions=(),
        ignored_actions=(),
        surfaces=("",),
        feature_width=4,
        feature_space="none:4",
        text_encoder="hashed_ngram:4",
        num_items=1,
        num_users=1,
        num_events=1,
        outcome_share=(1.0,),
        first_timestamp=0,
        last_timestamp=1,
    )


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with the real configurations, in which the stand-in replaces every ``model.py``."""
    folder = tmp_path_factory.mktemp("templates") / "model_repository"
    shutil.copytree(REPOSITORY, folder)
    for spec in (*PIPELINE, SIGNAL_INGEST):
        shutil.copyfile(Path(__file__).with_name("stand_in_model.py"), folder / spec.name / "1" / "model.py")
    return folder


@pytest.fixture(scope="session")
def triton() -> None:
    """Skips the test where no Triton is installed."""
    if importlib.util.find_spec("pytriton") is None and not IMAGE_ROOT.is_dir():
        pytest.skip("no Triton: pip install 'pinrec-on-triton[serve]'")


@pytest.fixture(scope="module")
def server(triton: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with TritonServer(endpoint=free_endpoint(), log_folder=tmp_path_factory.mktemp("log")) as server:
        yield server


@pytest.fixture(scope="session")
def program() -> Path:
    """HAProxy. Skips the test where it is not installed."""
    found = find_haproxy(FrontChoice.AUTO, FrontOptions())
    if found is None:
        pytest.skip("no HAProxy: apt-get install haproxy")
    return found


@pytest.fixture(scope="module")
def inner(server: TritonServer, templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """Where a Triton answers that serves a release of stand-ins, and the write path."""
    signals = tmp_path_factory.mktemp("signals")
    deployment = Deployment(server, templates, ServingOptions(signals=signals, realtime=signals / "realtime"))
    deployment.deploy_ingest(manifest())
    deployment.deploy(release_id="r1", folder=stand_in_release("r1"), dataset=manifest())
    yield server.endpoint
    deployment.drain(timeout=30.0)


@pytest.fixture(scope="module")
def world(triton: None, serving: IndexedModel, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five real releases and their signals. The stand-in generator refuses the release ``damaged`` and
    never has ``endless`` loaded."""
    folder = tmp_path_factory.mktemp("world")
    made = publish(
        serving,
        dataset=dataset,
        releases=folder / "made",
        training=HeldOut(evaluation_share=0.3, held_out_last=0),
        metrics={},
        now=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    )
    for release_id in ("r1", "r2", "r3", "damaged", "endless"):
        copy_release(made, folder / "releases", release_id)
    (folder / "signals").mkdir()
    DatasetManifest.load(dataset).save(folder / "signals")
    return folder


def copy_release(made: Release, releases: Path, release_id: str) -> None:
    """Copy a release under another id, which is written in the manifest alone."""
    folder = shutil.copytree(made.folder, releases / release_id)
    described = json.loads((folder / MANIFEST_FILE).read_text("utf-8"))
    (folder / MANIFEST_FILE).write_text(json.dumps(described | {"release_id": release_id}), "utf-8")
