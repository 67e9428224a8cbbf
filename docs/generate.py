#!/usr/bin/env python3
"""Writes the parts of docs/reference that code already says: ``python docs/generate.py``.

A page marks such a part with ``<!-- generated: NAME -->`` and ``<!-- end of generated part -->``;
everything around it is written by hand and stays. With ``--check`` nothing is written, and the exit
code is 1 if a page is stale; ``tests/contract/test_docs.py`` does the same.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
END = "<!-- end of generated part -->"

#: Heading -> first setting below it, in the order of ``jobs/conf.py``.
SETTING_GROUPS: dict[str, str] = {
    "Queues": "queues",
    "Leases, attempts and stopping": "lease_seconds",
    "Relay and maintenance": "relay_batch_size",
    "Redis": "cache_url",
    "API, sizes and files": "api_prefix",
}

TYPE_NAMES: dict[str, str] = {
    "bool": "0 or 1",
    "dict[str, Any]": "JSON object",
    "float": "number",
    "int": "whole number",
    "Path": "path",
    "str": "text",
    "tuple[Path, ...]": "list of paths",
    "tuple[str, ...]": "list of names",
}

LENGTHS_OF_TIME = ((86_400, "d"), (3600, "h"), (60, "min"))
SIZES = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


def attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field of a class, as one line."""
    [definition] = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            docs[field.target.id] = _line(below.value.value)
    return docs


def undocumented(model: type[BaseModel]) -> list[str]:
    """The fields of ``model`` that say nothing of themselves."""
    return sorted(set(model.model_fields) - set(attribute_docs(model)))


def settings_part() -> str:
    """Every key of ``settings.JOBS``, in groups."""
    from jobs.conf import JobsSettings

    docs, headings = attribute_docs(JobsSettings), {v: k for k, v in SETTING_GROUPS.items()}
    lines: list[str] = []
    for name, field in JobsSettings.model_fields.items():
        if name in headings:
            lines += ["", f"## {headings[name]}", "", *_head("Key", "Type", "Default", "Meaning")]
        lines.append(
            _row(f"`{name}`", _type(name, field), _default(name, field.default), docs.get(name, ""))
        )
    return "\n".join(lines[1:])


def environment_part() -> str:
    """Every variable of ``interlock.env.Env``."""
    os.environ.setdefault("DATABASE_URL", "postgres://placeholder/placeholder")
    os.environ.setdefault("BROKER_URL", "amqp://placeholder")
    os.environ.setdefault("INTERLOCK_SECRET_KEY", "placeholder-of-the-generator")
    from interlock.env import Env

    docs = attribute_docs(Env)
    lines = _head("Variable", "Type", "Default", "Meaning")
    for name, field in Env.model_fields.items():
        variable = field.alias or f"INTERLOCK_{name.upper()}"
        default = "required" if field.is_required() else _default(name, field.default)
        lines.append(_row(f"`{variable}`", _type(name, field), default, docs.get(name, "")))
    return "\n".join(lines)


def errors_part() -> str:
    """The tree of ``jobs.errors``, then one row per class."""
    from jobs import errors

    tree = inspect.cleandoc(errors.__doc__ or "").split("\n\n")[1]
    lines = ["```text", inspect.cleandoc(tree), "```", "", *_head("Class", "Code", "Meaning")]
    for name, error in inspect.getmembers(errors, _is_error):
        lines.append(_row(f"`{name}`", f"`{error.code}`", _paragraph(error.__doc__)))
    return "\n".join(lines)


def checks_part() -> str:
    """The Django system checks, from the messages in ``jobs/checks.py``."""
    tree = ast.parse((ROOT / "jobs" / "checks.py").read_text(encoding="utf-8"))
    texts = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        for keyword in node.keywords:
            if keyword.arg == "id" and isinstance(keyword.value, ast.Constant):
                found[str(keyword.value.value)] = _message(node.args[0], texts)
    rows = [_row(f"`{check}`", found[check]) for check in sorted(found)]
    return "\n".join([*_head("Check", "Message"), *rows])


PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "settings": ("settings.md", settings_part),
    "environment": ("environment.md", environment_part),
    "errors": ("errors.md", errors_part),
    "checks": ("errors.md", checks_part),
}


def page_with_part(text: str, name: str, part: str) -> str:
    """``text`` with the generated part ``name`` replaced. Raises ValueError without its marks."""
    start = f"<!-- generated: {name} -->"
    pattern = re.compile(f"{re.escape(start)}\n.*?{re.escape(END)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"the page needs {start!r} and {END!r} exactly once")
    return pattern.sub(lambda _: f"{start}\n\n{part}\n\n{END}", text)


def pages() -> dict[Path, str]:
    """Each page with a generated part, as it should be."""
    made: dict[Path, str] = {}
    for name, (file, part) in PARTS.items():
        path = REFERENCE / file
        text = made.get(path) or path.read_text(encoding="utf-8")
        made[path] = page_with_part(text, name, part())
    return made


def stale() -> list[str]:
    """The pages that ``python docs/generate.py`` would change."""
    return [
        str(path.relative_to(ROOT))
        for path, text in pages().items()
        if path.read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` only compare them."""
    if arguments == ["--check"]:
        outdated = stale()
        for page in outdated:
            sys.stderr.write(f"{page} is stale; run python docs/generate.py\n")
        return 1 if outdated else 0
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    return 0


def _head(*cells: str) -> list[str]:
    return [_row(*cells), "|" + "---|" * len(cells)]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _type(name: str, field: FieldInfo) -> str:
    text = str(field.annotation)
    if isinstance(field.annotation, type) and "[" not in text:
        text = field.annotation.__name__
    plain = re.sub(r"(?:\w+\.)+(\w+)", r"\1", text).removesuffix(" | None")
    return ", ".join([TYPE_NAMES.get(plain, plain), *_bounds(name, field.metadata)])


def _bounds(name: str, metadata: Iterable[Any]) -> Iterable[str]:
    for bound in metadata:
        if isinstance(bound, Gt):
            yield f"above {_amount(name, bound.gt)}"
        elif isinstance(bound, Ge):
            yield f"at least {_amount(name, bound.ge)}"
        elif isinstance(bound, Lt):
            yield f"below {_amount(name, bound.lt)}"
        elif isinstance(bound, Le):
            yield f"at most {_amount(name, bound.le)}"
        elif isinstance(bound, MinLen):
            yield f"length at least {bound.min_length}"
        elif isinstance(bound, MaxLen):
            yield f"length at most {bound.max_length}"


def _default(name: str, value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, bool):
        return "`1`" if value else "`0`"
    if isinstance(value, int | float):
        amount = _amount(name, value)
        return f"`{_number(value)}`" + (f" ({amount})" if amount != _number(value) else "")
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value) or "none"
    if value in ("", {}, None):
        return "none"
    return f"`{value}`"


def _amount(name: str, value: Any) -> str:
    """A number in the largest unit that the setting's name allows and that divides it."""
    units: Iterable[tuple[int, str]] = ()
    if name.endswith("_seconds"):
        units = LENGTHS_OF_TIME
    elif name.endswith("_bytes"):
        units = SIZES
    for factor, unit in units:
        if value >= factor and value % factor == 0:
            return f"{_number(value / factor)} {unit}"
    return _number(value)


def _number(value: Any) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _paragraph(docstring: str | None) -> str:
    return _line(inspect.cleandoc(docstring or "").split("\n\n")[0])


def _line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _is_error(member: object) -> bool:
    return (
        inspect.isclass(member)
        and member.__module__ == "jobs.errors"
        and issubclass(member, BaseException)
    )


def _message(node: ast.expr, texts: dict[str, ast.expr]) -> str:
    if isinstance(node, ast.Name) and node.id in texts:
        node = texts[node.id]
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
        return "".join(parts)
    return "`JOBS[key]: ` and what is wrong with it, for every wrong key"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
