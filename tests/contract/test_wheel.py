"""The wheel, installed into an empty environment: complete, and nothing else in it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(command: Sequence[str], cwd: Path) -> str:
    """Run outside of the checkout, and without its roots on the path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the locked build backend of the development environment, so no network is needed."""
    target = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    run([*build, str(target), str(ROOT)], target)
    [built] = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel; its dependencies are lent by this one."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home)
    interpreter = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install"]
    run([*pip, "--no-deps", "--no-index", "--quiet", str(wheel)], home)
    [site] = home.glob("lib/python*/site-packages")
    # A plain path line: the .pth files in there, which lead to the checkout, are not read again.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def test_both_packages_are_in_it_and_nothing_else(names: set[str]) -> None:
    roots = {name.split("/")[0] for name in names}
    [info] = [root for root in roots if root.endswith(".dist-info")]
    assert roots == {"jobs", "interlock", info}
    assert f"{info}/licenses/LICENSE" in names


@pytest.mark.parametrize("root", ["jobs", "platform/interlock"])
def test_every_file_of_the_sources_is_in_it(names: set[str], root: str) -> None:
    base = ROOT / root
    wanted = {
        f"{base.name}/{path.relative_to(base)}"
        for path in base.rglob("*")
        if path.is_file() and not {"__pycache__", "local"} & set(path.parts)
    }
    assert wanted - names == set()
    assert {"jobs/py.typed", "jobs/sql/guard_v1.sql"} <= names


def test_what_needs_a_checkout_is_not_in_it(names: set[str]) -> None:
    assert [name for name in names if name.startswith("interlock/local")] == []


def test_nothing_private_or_stale_is_in_it(names: set[str]) -> None:
    assert [name for name in names if "__pycache__" in name or "/." in name] == []


def test_it_is_imported_from_where_it_was_installed(python: Path, tmp_path: Path) -> None:
    code = "import interlock, jobs, platform; print(jobs.__file__, interlock.__file__)"
    for place in run([str(python), "-c", code], tmp_path).split():
        assert Path(place).is_relative_to(python.parents[1])


def test_the_installed_project_checks_itself(python: Path, tmp_path: Path) -> None:
    assert "no issues" in run([str(python), "-W", "error", "-m", "interlock", "check"], tmp_path)


def test_the_installed_command_works(python: Path, tmp_path: Path) -> None:
    said = run([str(python.parent / "interlock"), "jobs_state_diagram"], tmp_path)
    assert said == (ROOT / "docs/reference/state-machine.md").read_text(encoding="utf-8")
