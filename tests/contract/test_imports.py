"""The directions of imports, and habits that an import rule cannot say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
SOURCES = [
    path
    for path in sorted(JOBS.rglob("*.py"))
    if "migrations" not in path.parts and path != JOBS / "testing.py"
]


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """Every call in a file as dotted text, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def calls_matching(pattern: str, *, outside: set[str]) -> list[str]:
    """Calls that match, in files other than these."""
    return [
        f"{path.relative_to(ROOT)}:{line} {text}"
        for path in SOURCES
        if str(path.relative_to(JOBS)) not in outside
        for text, line in calls(path)
        if re.search(pattern, text)
    ]


def test_the_import_contracts_hold() -> None:
    # A process of its own: import-linter reconfigures the logging of the one it runs in.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_its_place_in_the_layers() -> None:
    """A new room must say where it stands; import-linter checks only those that it is told of."""
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = configured["tool"]["importlinter"]["contracts"]
    [layers] = [contract for contract in contracts if contract["type"] == "layers"]
    placed = set(re.findall(r"\w+", " ".join(layers["layers"])))
    rooms = {path.stem for path in JOBS.glob("*.py")} | {
        path.parent.name for path in JOBS.glob("*/__init__.py")
    }
    assert placed == rooms - {"__init__", "migrations"}


def test_only_lifecycle_and_querysets_lock_job_rows() -> None:
    found = calls_matching(r"select_for_update|\.locked$", outside={"querysets.py"})
    assert [call for call in found if not call.startswith("jobs/lifecycle/")] == []


def test_nobody_writes_job_rows_past_lifecycle() -> None:
    """Not by the ORM; the statements and functions of ``sql/`` that write them are lifecycle's."""
    written = r"\bJob\.objects\b.*\.(update|create|bulk_\w+|delete|get_or_create|update_or_create)$"
    assert calls_matching(written, outside=set()) == []
    loaded = r"views_of$|\bexecute$|sql\.load$|\bmove$|\bcall$"
    names = "jobs_(submit|claim|succeed)_v1|write_transitions|heartbeat|doubt"
    users = {found.split(":")[0] for found in calls_matching(loaded, outside=set())}
    writers = {
        str(path.parent.relative_to(ROOT)) for path in SOURCES
        if re.search(rf'[( ]"({names})"[,)]', path.read_text(encoding="utf-8"))
        and str(path.relative_to(ROOT)) in users
    }  # fmt: skip
    assert writers == {"jobs/lifecycle"}


def test_delays_live_in_the_database_and_never_in_a_message() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword):
                assert node.arg not in {"eta", "countdown", "expires"}, f"{path}:{node.lineno}"
    assert calls_matching(r"(apply_async|\.delay|self\.retry)$", outside=set()) == []


def test_only_the_transaction_rooms_begin_one() -> None:
    """Code of users, broker and Redis is never called with a transaction open."""
    allowed = {"transactions.py", "management/commands/jobs_bootstrap.py"}
    assert calls_matching(r"\batomic$", outside=allowed) == []


def test_the_wall_clock_is_for_people_only() -> None:
    """What decides is the database's clock; ours stamps log lines and says "3 minutes ago"."""
    clock = r"(datetime\.now|datetime\.utcnow|timezone\.now|time\.time)$"
    found = calls_matching(clock, outside={"running.py", "display.py"})
    # Files know no other time than that of the machine that keeps them.
    people = ("jobs/admin/", "jobs/maintenance/orphans.py")
    assert [call for call in found if not call.startswith(people)] == []
