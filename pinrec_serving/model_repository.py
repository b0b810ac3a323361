"""Writes the models that Triton loads for one release, from the templates in ``model_repository/``.

A stage of a release is a copy of its template under a name that contains the release, with the release folder as a
parameter. The ensemble is a copy of its template whose steps carry those names. This module knows nothing of a running
server.
"""

from __future__ import annotations

import os
import py_compile
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

import pinrec_core
from pinrec_core.contract import ENSEMBLE, DType, StageSpec
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ServerError, require
from pinrec_core.ids import IdKind
from pinrec_serving.model_names import qualified_name

CONFIG_FILE = "config.pbtxt"
VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdKinds:
    """How one dataset writes its ids. This decides the element type of the id tensors."""

    user_id: IdKind
    item_id: IdKind

    @staticmethod
    def of(dataset: DatasetManifest) -> IdKinds:
        return IdKinds(user_id=dataset.user_id_kind, item_id=dataset.item_id_kind)

    def data_type(self, dtype: DType) -> int:
        """The element type in Triton's configuration, a ``DataType`` of the inference protocol."""
        kind = {DType.USER_ID: self.user_id, DType.ITEM_ID: self.item_id}.get(dtype)
        if kind is not None:
            dtype = DType.BYTES if kind is IdKind.STRING else DType.INT64
        return DataType.Value("TYPE_STRING" if dtype is DType.BYTES else f"TYPE_{dtype.value}")


def default_templates() -> Path:
    """The folder ``model_repository`` beside the package, as in a checkout, else the one in the working directory."""
    beside = Path(pinrec_core.__file__).parents[1] / "model_repository"
    return beside if beside.is_dir() else Path("model_repository")


def read_template(templates: Path, stage: str) -> ModelConfig:
    """The configuration of one template. Raises ``ServerError`` when it is missing or malformed."""
    path = Path(templates) / stage / CONFIG_FILE
    try:
        return text_format.Parse(path.read_text("utf-8"), ModelConfig())
    except OSError as error:
        raise ServerError(f"{path}: expected the configuration of {stage} ({error.strerror})") from error
    except text_format.ParseError as error:
        raise ServerError(f"{path}: {error}") from error


def write_stage(
    repository: Path,
    templates: Path,
    spec: StageSpec,
    *,
    name: str,
    ids: IdKinds,
    parameters: Mapping[str, str],
    instances: int | None = None,
    queue_delay_us: int | None = None,
) -> None:
    """Write model ``name``: the template of ``spec`` with its id types and parameters.

    ``instances`` and ``queue_delay_us`` replace the template's number of processes and the microseconds that its
    batcher waits for more requests.
    """
    config = read_template(templates, spec.name)
    config.name = name
    _set_id_types(config, spec, ids)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    if instances is not None:
        config.instance_group[0].count = instances
    if queue_delay_us is not None:
        config.dynamic_batching.max_queue_delay_microseconds = queue_delay_us
    version = Path(repository) / name / VERSION
    version.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(templates) / spec.name / VERSION / "model.py", version / "model.py")
    # Triton reloads a model whose folder has changed. Were the bytecode cache written by the stage's own process, after
    # the model is loaded, then loading the ensemble would load every stage a second time. So the cache is written here.
    py_compile.compile(str(version / "model.py"), doraise=True)
    _write_config(repository, config)


def write_ensemble(repository: Path, templates: Path, *, name: str, release_id: str, ids: IdKinds) -> None:
    """Write the ensemble ``name`` whose steps are the stages of ``release_id``."""
    config = read_template(templates, ENSEMBLE.name)
    config.name = name
    _set_id_types(config, ENSEMBLE, ids)
    for step in config.ensemble_scheduling.step:
        step.model_name = qualified_name(step.model_name, release_id)
    (Path(repository) / name / VERSION).mkdir(parents=True, exist_ok=True)
    _write_config(repository, config)


def _set_id_types(config: ModelConfig, spec: StageSpec, ids: IdKinds) -> None:
    dtype = {t.name: t.dtype for t in (*spec.inputs, *spec.outputs)}
    for tensor in (*config.input, *config.output):
        require(tensor.name in dtype, f"{spec.name}/{CONFIG_FILE} tensor", tensor.name, f"one of {sorted(dtype)}",
                error=ServerError)  # fmt: skip
        tensor.data_type = ids.data_type(dtype[tensor.name])


def _write_config(repository: Path, config: ModelConfig) -> None:
    """Write to a temporary file and rename it, so that the server never reads half a configuration."""
    path = Path(repository) / config.name / CONFIG_FILE
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(text_format.MessageToString(config), "utf-8")
    os.replace(unfinished, path)
