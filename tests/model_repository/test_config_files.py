"""Every ``config.pbtxt`` and every ``model.py`` agrees with ``pinrec_core.contract``."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from pinrec_core import contract
from pinrec_core.contract import DType, StageSpec
from pinrec_core.limits import BATCH

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
STAGES = (*contract.PIPELINE, contract.SIGNAL_INGEST)
MODELS = (contract.ENSEMBLE, *STAGES)
TEMPLATE_TYPES = {DType.USER_ID: "TYPE_INT64", DType.ITEM_ID: "TYPE_INT64", DType.BYTES: "TYPE_STRING"}
NOT_LEFT_TO_TRITON = "user_id"
"""The contract requires this input. It is optional in the configuration, so that the stage can report it missing."""


def read(name: str) -> ModelConfig:
    return text_format.Parse((REPOSITORY / name / "config.pbtxt").read_text("utf-8"), ModelConfig())


def by_name(specs: tuple[StageSpec, ...]) -> list:
    return [pytest.param(spec, id=spec.name) for spec in specs]


def test_the_repository_holds_the_models_of_the_contract_and_no_others() -> None:
    assert {p.name for p in REPOSITORY.iterdir() if p.is_dir()} == {spec.name for spec in MODELS}


@pytest.mark.parametrize("spec", by_name(MODELS))
def test_tensors_are_those_of_the_contract(spec: StageSpec) -> None:
    config = read(spec.name)
    assert config.name == spec.name
    for written, promised in ((config.input, spec.inputs), (config.output, spec.outputs)):
        assert [t.name for t in written] == [t.name for t in promised]
        for tensor, expected in zip(written, promised, strict=True):
            type_name = TEMPLATE_TYPES.get(expected.dtype, f"TYPE_{expected.dtype.value}")
            assert DataType.Name(tensor.data_type) == type_name, tensor.name
            assert tuple(tensor.dims) == expected.shape, tensor.name
            assert not tensor.HasField("reshape"), tensor.name


@pytest.mark.parametrize("spec", by_name(MODELS))
def test_what_a_caller_may_omit_is_optional(spec: StageSpec) -> None:
    for tensor, expected in zip(read(spec.name).input, spec.inputs, strict=True):
        assert tensor.optional == (expected.optional or expected.name == NOT_LEFT_TO_TRITON), tensor.name


@pytest.mark.parametrize("spec", by_name(STAGES))
def test_inputs_that_vary_in_shape_are_ragged(spec: StageSpec) -> None:
    for tensor, expected in zip(read(spec.name).input, spec.inputs, strict=True):
        assert tensor.allow_ragged_batch == expected.ragged, tensor.name


@pytest.mark.parametrize("spec", by_name(STAGES))
def test_stages_batch_dynamically_without_a_queue_policy(spec: StageSpec) -> None:
    """With any limit in a queue policy, a request that no other follows may wait 500 ms in Triton's batcher."""
    config = read(spec.name)
    assert config.backend == "python"
    assert config.max_batch_size > 1
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert not config.dynamic_batching.HasField("default_queue_policy")
    (group,) = config.instance_group
    assert group.kind == ModelInstanceGroup.KIND_CPU
    assert group.count == 1
    assert not config.parameters, "what a release is loaded with comes from `pinrec serve`"


def test_ensemble_takes_batches_no_larger_than_its_stages() -> None:
    sizes = {spec.name: read(spec.name).max_batch_size for spec in contract.PIPELINE}
    assert read(contract.ENSEMBLE.name).max_batch_size <= min(sizes.values()), sizes


def test_every_step_is_wired_by_the_names_of_the_contract() -> None:
    config = read(contract.ENSEMBLE.name)
    assert config.platform == "ensemble"
    steps = config.ensemble_scheduling.step
    assert [step.model_name for step in steps] == [spec.name for spec in contract.PIPELINE]
    for step, spec in zip(steps, contract.PIPELINE, strict=True):
        assert step.model_version == -1
        assert dict(step.input_map) == {t.name: t.name for t in spec.inputs}
        assert dict(step.output_map) == {t.name: t.name for t in spec.outputs}


def test_every_tensor_is_made_before_it_is_read_and_by_one_step_only() -> None:
    made = [t.name for t in contract.ENSEMBLE.inputs]
    for spec in contract.PIPELINE:
        assert {t.name for t in spec.inputs} <= set(made), spec.name
        made += [t.name for t in spec.outputs]
    assert len(made) == len(set(made))
    assert {t.name for t in contract.ENSEMBLE.outputs} <= set(made)


def test_a_name_means_one_tensor_everywhere() -> None:
    seen: dict[str, contract.TensorSpec] = {}
    for spec in MODELS:
        for tensor in (*spec.inputs, *spec.outputs):
            assert seen.setdefault(tensor.name, tensor) == tensor


@pytest.mark.parametrize("spec", by_name(STAGES))
def test_model_py_is_thin_and_serves_its_own_contract(spec: StageSpec) -> None:
    source = (REPOSITORY / spec.name / "1" / "model.py").read_text("utf-8")
    assert len(source.splitlines()) <= 60
    (model,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    assert model.name == "TritonPythonModel"
    assert [node.name for node in model.body if isinstance(node, ast.FunctionDef)] == [
        "initialize",
        "execute",
        "finalize",
    ]
    contracts = {
        node.attr
        for node in ast.walk(model)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "contract"
    }
    assert contracts == {spec.name.upper()}


@pytest.mark.parametrize("spec", by_name(MODELS))
def test_no_model_is_given_a_larger_batch_than_the_limits_say(spec: StageSpec) -> None:
    assert read(spec.name).max_batch_size == BATCH
