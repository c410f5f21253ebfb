"""constraints.txt holds every version that is installed, with the hashes of its files; torch alone may be a build of one's own."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "constraints.txt").read_text()


@pytest.fixture(scope="module")
def own() -> ModuleType:
    """The script that writes constraints.txt."""
    spec = importlib.util.spec_from_file_location("constraints", ROOT / ".ci" / "constraints.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_requirement_has_a_version_that_it_allows(own: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["dev"], *extras["ray"], *project["build-system"]["requires"]]
    versions = {own.normal(name): version for name, version in own.pinned(TEXT).items()}
    for requirement in map(Requirement, wanted):
        name = own.normal(requirement.name)
        assert name in versions
        assert requirement.specifier.contains(versions[name]), requirement


def test_every_version_but_torchs_has_hashes_and_none_a_place(own: ModuleType) -> None:
    hashes = own.hashes(TEXT)
    assert set(hashes) == set(own.pinned(TEXT))
    assert {name for name, found in hashes.items() if not found} == own.WITHOUT_A_HASH == {"torch"}
    assert "://" not in TEXT
    assert not re.search(r"^\s*-(?!-hash=)", TEXT, re.MULTILINE)


def test_what_limbeck_needs_to_run_stands_in_the_part_that_is_installed_where_it_runs(own: ModuleType) -> None:
    running, development = TEXT.split("\n# For development")
    needed = own.needed("limbeck") - {"limbeck"}
    assert needed <= {own.normal(name) for name in own.pinned(running)}
    assert not needed & {own.normal(name) for name in own.pinned(development)}
    assert "pytest" in own.pinned(development)


def test_the_makefile_takes_nothing_but_torch_without_a_hash() -> None:
    makefile = (ROOT / "Makefile").read_text()
    installs = [line for line in makefile.splitlines() if "pip install" in line and not line.startswith("#")]
    without = [line for line in installs if "--require-hashes" not in line and "--editable ." not in line]
    assert len(installs) > len(without) > 0
    assert all("$(TORCH)" in line for line in without)
    assert all("--no-deps" in line for line in installs if line not in without[1:])
