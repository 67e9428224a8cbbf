"""Reads compose.yaml the way Compose does, so that tests can judge and run what it says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE_FILE = ROOT / "compose.yaml"
SERVICES = ROOT / "platform" / "services"
EXAMPLE_FILE = SERVICES / "compose.env.example"

# Only the forms that the file uses. A default ends at the first brace, as in Compose.
VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<kind>:[-?])(?P<rest>[^}]*))?\})"
)


class MissingVariableError(Exception):
    """A variable marked as required (`${NAME:?reason}`) has no value."""


def load() -> dict[str, Any]:
    """The document as written: anchors merged, variables untouched."""
    return dict(yaml.safe_load(COMPOSE_FILE.read_text()))


def resolved(environ: Mapping[str, str]) -> dict[str, Any]:
    """The document with every variable replaced. Raises MissingVariableError."""
    document = dict(_resolve(load(), environ))
    for service in document["services"].values():
        given = service.get("environment", {})
        # An entry without a value is passed on if the variable is set at all, else left out.
        passed_on = {name: environ[name] for name in given if name in environ}
        service["environment"] = {
            name: passed_on.get(name) if value is None else value
            for name, value in given.items()
            if value is not None or name in passed_on
        }
    return document


def passed_on() -> set[str]:
    """Variables that reach a container only if they are set."""
    services = load()["services"].values()
    return {
        name
        for service in services
        for name, value in service.get("environment", {}).items()
        if value is None
    }


def _resolve(node: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _resolve(value, environ) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolve(value, environ) for value in node]
    return interpolate(node, environ) if isinstance(node, str) else node


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """Replace `${NAME}`, `${NAME:-default}`, `${NAME:?reason}` and `$$`."""

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        found = environ.get(match["name"], "")
        if found or match["kind"] is None:
            return found
        if match["kind"] == ":?":
            raise MissingVariableError(f"{match['name']}: {match['rest']}")
        return str(match["rest"])

    return VARIABLE.sub(value, text)


def example_values() -> dict[str, str]:
    """The variables of compose.env.example, each `generate` replaced as the how-to says."""
    lines = EXAMPLE_FILE.read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    return {
        name: f"{name.lower().replace('_', '-')}-0123456789abcdef" if text == "generate" else text
        for name, text in pairs
    }
