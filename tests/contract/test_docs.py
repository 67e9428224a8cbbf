"""Docs that cannot rot quietly: generated parts, links, named files, and nothing left out."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.management import get_commands

from interlock.env import Env
from jobs import events, states
from jobs.conf import JobsSettings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
EXPLANATION = DOCS / "explanation"

#: Directories that are not the repository's own.
FOREIGN = re.compile(r"^(\.(?!ci$).*|build|dist|node_modules|test-artifacts|results|__pycache__)$")
MAX_LINES = 200
#: Where a path in backticks must lead somewhere.
ROOMS = "bench|docs|jobs|platform|requirements|tests"

FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*$", re.MULTILINE)
NAMED_FILE = re.compile(rf"^(?:\./)?((?:{ROOMS})/[\w./-]*)$")
VARIABLE = re.compile(r"\bINTERLOCK_[A-Z][A-Z_]*[A-Z]\b")


@cache
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_pages(directory: Path = ROOT) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.is_dir() and not FOREIGN.match(path.name):
            yield from own_pages(path)
        elif path.suffix == ".md":
            yield path


PAGES = [str(path.relative_to(ROOT)) for path in own_pages()]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose_of(path: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", text_of(path))


def anchors_of(path: Path) -> set[str]:
    """The anchors that headings get, as GitHub and most renderers make them."""
    found: set[str] = set()
    for heading in HEADING.findall(prose_of(path)):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (anchor := slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(anchor)
    return found


def test_generated_parts_are_fresh() -> None:
    assert generator().stale() == [], "run python docs/generate.py"


@pytest.mark.parametrize("model", [JobsSettings, Env])
def test_every_setting_says_what_it_is(model: type[Any]) -> None:
    assert generator().undocumented(model) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path, dead = ROOT / page, []
    for target in LINK.findall(CODE.sub("", prose_of(path))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            dead.append(target)

    assert dead == []


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    words = (code.split()[0] for code in CODE.findall(prose_of(ROOT / page)) if code.strip())
    named = [match[1] for word in words if (match := NAMED_FILE.match(word))]

    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_page_is_short_and_can_be_found(page: str) -> None:
    path = ROOT / page
    assert len(text_of(path).splitlines()) <= MAX_LINES

    linked = {
        (other.parent / target.partition("#")[0]).resolve()
        for other in map(ROOT.joinpath, PAGES)
        for target in LINK.findall(text_of(other))
        if other != path
    }
    assert path in linked


def test_every_command_and_option_is_documented() -> None:
    page = text_of(REFERENCE / "commands.md")
    ours = {name for name, app in get_commands().items() if app == "jobs"}
    missing = [name for name in sorted(ours) if f"`{name}" not in page]
    for source in (ROOT / "jobs" / "management" / "commands").glob("[a-z]*.py"):
        options = re.findall(r'add_argument\(\s*"([\w-]+)"', text_of(source))
        missing += [f"{source.stem} {option}" for option in options if f"`{option}" not in page]

    assert missing == []


def test_every_dev_command_is_documented() -> None:
    shown = re.findall(r"^  (\w+) .*  +\S", text_of(ROOT / "dev"), re.MULTILINE)
    page = text_of(REFERENCE / "commands.md")

    assert "demo" in shown
    assert [name for name in shown if name != "help" and f"./dev {name}" not in page] == []


def test_every_variable_is_documented() -> None:
    sources = [ROOT / "dev", ROOT / "compose.yaml", *(ROOT / "platform/interlock").rglob("*.py")]
    used = {name for source in sources for name in VARIABLE.findall(text_of(source))}
    known = set(VARIABLE.findall(text_of(REFERENCE / "environment.md")))

    assert sorted(used - known) == []


def test_every_celery_setting_has_its_reason() -> None:
    sources = ("jobs/celery_defaults.py", "platform/interlock/celeryconfig.py")
    names = {
        target.id
        for source in sources
        for node in ast.parse(text_of(ROOT / source)).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    page = text_of(EXPLANATION / "delivery.md")

    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_every_event_fact_and_state_is_documented() -> None:
    page, lifecycle = text_of(REFERENCE / "events.md"), text_of(EXPLANATION / "lifecycle.md")
    named = [event.value for event in states.JobEvent]
    named += [fact.__name__ for fact in events.Fact.__args__]

    assert [name for name in named if f"| `{name}` |" not in page] == []
    assert [state.value for state in states.JobState if f"| {state} |" not in lifecycle] == []


def test_every_constraint_of_the_guard_is_documented() -> None:
    guards = (ROOT / "jobs" / "sql").glob("guard_*.sql")
    named = {name for file in guards for name in re.findall(r"CONSTRAINT = '(\w+)'", text_of(file))}
    page = text_of(REFERENCE / "errors.md")

    assert named
    assert sorted(name for name in named if f"`{name}`" not in page) == []


def test_every_module_has_a_room() -> None:
    page = text_of(EXPLANATION / "architecture.md")
    quiet = {"__init__.py", "apps.py"}
    modules = {file.name for file in (ROOT / "jobs").glob("*.py")} - quiet

    assert sorted(name for name in modules if f"`jobs/{name}`" not in page) == []


def test_decisions_are_numbered_and_listed() -> None:
    files = sorted(path.name for path in (DOCS / "adr").glob("[0-9]*.md"))
    table = re.compile(r"^\| \[\d{4}\]\((\d{4}-[\w-]+\.md)\)", re.MULTILINE)
    listed = table.findall(text_of(DOCS / "adr" / "README.md"))

    assert listed == files
    assert [int(name[:4]) for name in files] == list(range(1, len(files) + 1))
    for name in files:
        headings = HEADING.findall(text_of(DOCS / "adr" / name))
        assert {"Context", "Decision", "Consequences", "Alternatives"} <= set(headings), name
