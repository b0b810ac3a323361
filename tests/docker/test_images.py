"""The Dockerfiles as text: what they copy exists, reaches the build, and is all that the project consists of."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

pytestmark = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)


def copied(dockerfile: Path) -> list[str]:
    """The sources of every COPY from the build context."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", dockerfile.read_text("utf-8"), re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def argument(dockerfile: Path, name: str) -> str:
    found = re.search(rf'^ARG {name}="?([^"\n]*)"?$', dockerfile.read_text("utf-8"), re.MULTILINE)
    assert found is not None, f"{dockerfile.name} has no ARG {name}"
    return found[1]


def test_what_is_copied_exists_and_is_not_ignored(dockerfile: Path) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    for source in copied(dockerfile):
        assert (ROOT / source).exists(), f"{dockerfile.name} copies {source}, which does not exist"
        assert source.split("/")[0] in allowed, f"{dockerfile.name} copies {source}, which .dockerignore leaves out"


def test_every_part_of_the_project_is_copied(dockerfile: Path) -> None:
    packages = [name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
    missing = {*packages, "client", "model_repository", "constraints.txt"} - set(copied(dockerfile))
    assert not missing, f"{dockerfile.name} does not copy {sorted(missing)}"


def test_code_is_copied_after_the_dependencies_are_installed(dockerfile: Path) -> None:
    text = dockerfile.read_text("utf-8")
    install = text.index("-c constraints.txt")
    for code in ("client", "pinrec_core", "pinrec_cli", "pinrec_serving", "signal_service", "id_embedder"):
        assert text.index(f"COPY {code} {code}") > install, f"a change of {code} would install all dependencies again"


def test_extras_are_those_of_the_project(dockerfile: Path) -> None:
    extras = set(argument(dockerfile, "EXTRAS").split(","))
    assert extras <= set(PROJECT["project"]["optional-dependencies"])
    assert ("serve" in extras) == (dockerfile.suffix == ".cpu"), "one Triton in each image: the wheel's or its own"


def test_no_package_index_is_built_in(dockerfile: Path) -> None:
    assert argument(dockerfile, "TORCH_INDEX") == ""


def test_the_image_does_not_run_as_root(dockerfile: Path) -> None:
    users = re.findall(r"^USER (.+)$", dockerfile.read_text("utf-8"), re.MULTILINE)
    assert users
    assert users[-1] not in ("root", "0")


def test_the_front_is_installed_in_a_pinned_series(dockerfile: Path) -> None:
    last = dockerfile.read_text("utf-8").rpartition("\nFROM ")[2].partition("\n")[0]
    whole = dockerfile.read_text("utf-8")
    stage = whole[whole.index("AS image") if last == "image" else whole.rindex("\nFROM ") :]
    assert re.search(r'"haproxy=\d+\.\d+\.\*"', stage), "without HAProxy nothing bounds the requests in flight"
