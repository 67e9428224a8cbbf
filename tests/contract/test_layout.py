"""The layout that keeps ``platform/`` a source root and never a package."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = ROOT / "platform"
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with the checkout's two roots on its path."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{PLATFORM}"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_platform_is_no_package() -> None:
    assert not (PLATFORM / "__init__.py").exists()
    assert (PLATFORM / "README.md").is_file()


def test_the_standard_platform_module_is_found_from_the_checkout() -> None:
    done = python("-c", "import platform; print(platform.__file__, platform.python_version())")
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith(str(ROOT))


def test_there_is_no_test_below_platform() -> None:
    found = [*PLATFORM.rglob("test_*.py"), *PLATFORM.rglob("*_test.py")]
    assert [*found, *PLATFORM.rglob("conftest.py")] == []


@pytest.mark.parametrize(
    ("module", "root"), [("jobs", ROOT), ("interlock", PLATFORM), ("tests.conftest", ROOT)]
)
def test_both_roots_are_importable(module: str, root: Path) -> None:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(root)


def test_pytest_runs_as_a_module_from_the_root() -> None:
    """Bare ``pytest`` would hide a shadowed standard module; ``python -m`` shows it."""
    done = python("-m", "pytest", "--version")
    assert done.returncode == 0, done.stderr


def test_manage_py_starts() -> None:
    done = python("manage.py", "--version")
    assert done.returncode == 0, done.stderr


def test_the_build_maps_both_roots() -> None:
    build = PYPROJECT["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["packages"] == ["jobs", "platform/interlock"]
    assert build["dev-mode-dirs"] == [".", "platform"]


def test_every_tool_knows_both_roots() -> None:
    tools = PYPROJECT["tool"]
    assert tools["ruff"]["src"] == [".", "platform"]
    assert tools["pytest"]["ini_options"]["pythonpath"] == [".", "platform"]
    assert "platform" in tools["mypy"]["mypy_path"]
    assert tools["importlinter"]["root_packages"] == ["jobs", "interlock"]


def test_the_guards_against_shadowing_are_on() -> None:
    lint = PYPROJECT["tool"]["ruff"]["lint"]
    assert "A" in lint["select"]
    assert not [rule for rule in lint["ignore"] if rule.startswith("A0")]
    assert lint["flake8-builtins"]["strict-checking"] is True


def test_warnings_are_errors() -> None:
    assert "error" in PYPROJECT["tool"]["pytest"]["ini_options"]["filterwarnings"]
