"""The form that submits one job, and its help: what each handler's payload looks like."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from django import forms

from jobs import conf, lifecycle, registry
from jobs.errors import IdempotencyConflict, SubmissionError
from jobs.states import ActorKind
from jobs.values import Accepted, Actor, Submission


@dataclass(frozen=True, slots=True)
class Parameter:
    """One field of a handler's payload, in words."""

    name: str
    kind: str
    required: bool
    default: str
    note: str


@dataclass(frozen=True, slots=True)
class Help:
    """What the form tells of one handler."""

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    schema: str


class PayloadField(forms.CharField):
    """A JSON object, typed as text; keeps the text as it was typed when it is shown again."""

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        try:
            parsed = json.loads(text or "{}")
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(f"This is not JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise forms.ValidationError('The payload is a JSON object, like {"name": "value"}.')
        return parsed

    def validate(self, value: Any) -> None:
        """An empty object is a payload."""

    def run_validators(self, value: Any) -> None:
        """Lengths are judged by the settings, at submit."""


class SubmitForm(forms.Form):
    """Everything that lifecycle refuses appears at the field that it names."""

    handler = forms.ChoiceField(choices=lambda: [(name, name) for name in registry.names()])
    payload = PayloadField(
        required=False,
        strip=True,
        widget=forms.Textarea(
            attrs={
                "rows": 10,
                "spellcheck": "false",
                "class": "jobs-code",
                "placeholder": '{"parameter": "value"}',
            }
        ),
        help_text="A JSON object with the parameters of the handler.",
    )
    queue = forms.ChoiceField(
        required=False,
        choices=lambda: [("", "The handler's own"), *((q, q) for q in conf.get().queues)],
    )
    priority = forms.IntegerField(
        required=False, min_value=0, max_value=9, help_text="0 to 9, 9 is most urgent."
    )
    delay_seconds = forms.FloatField(
        required=False, min_value=0, max_value=366 * 86_400, label="Delay",
        help_text="Seconds to wait before it may start.",
    )  # fmt: skip
    reason = forms.CharField(required=False, max_length=500, help_text="Kept in the audit.")
    #: Sending the same form twice gives one job.
    once = forms.UUIDField(widget=forms.HiddenInput, initial=uuid4)

    def send(self, user_id: Any) -> Accepted | None:
        """Submit as this admin, who also owns the job; None, with errors set, if refused."""
        data = self.cleaned_data
        submission = Submission(
            handler=data["handler"],
            payload=data["payload"],
            owner_id=user_id,
            queue=data["queue"] or None,
            priority=data["priority"],
            delay_seconds=data["delay_seconds"],
            idempotency_key=f"admin-form:{data['once']}",
        )
        actor = Actor(ActorKind.ADMIN, str(user_id))
        try:
            return lifecycle.submit([submission], actor=actor, reason=data["reason"])[0]
        except IdempotencyConflict:
            typed = {name: self.data.get(name) for name in self.data}
            self.data = {**typed, "once": str(uuid4())}
            self.add_error(
                None,
                "This form was sent before, with other contents. Send again for another job.",
            )
        except SubmissionError as error:
            for problem in error.problems:
                self._show(problem.path, problem.message)
        return None

    def _show(self, path: str, message: str) -> None:
        name, _, rest = path.partition(".")
        if name in self.fields:
            self.add_error(name, f"{rest}: {message}" if rest else message)
        else:
            self.add_error(None, f"{path}: {message}")


def helps() -> list[Help]:
    """Help for every handler of this process."""
    return [_help(registry.get(name)) for name in registry.names()]


def _help(handler: registry.Handler) -> Help:
    schema = handler.schema()
    required = schema.get("required", [])
    return Help(
        name=handler.name,
        summary=handler.summary,
        parameters=tuple(
            _parameter(name, field, required=name in required)
            for name, field in schema.get("properties", {}).items()
        ),
        schema=json.dumps(schema, indent=2, ensure_ascii=False),
    )


def _parameter(name: str, field: dict[str, Any], *, required: bool) -> Parameter:
    bounds = [
        f"{word} {field[key]}"
        for key, word in (("minimum", "from"), ("maximum", "to"), ("maxLength", "up to"))
        if key in field
    ]
    return Parameter(
        name=name,
        kind=_kind(field),
        required=required,
        default=json.dumps(field["default"]) if "default" in field else "",
        note=", ".join(filter(None, [field.get("description", ""), *bounds])),
    )


def _kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rsplit("/", 1)[-1]
    if "enum" in field:
        return " | ".join(json.dumps(value) for value in field["enum"])
    if "anyOf" in field:
        return " | ".join(_kind(option) for option in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    return str(field.get("format") or field.get("type") or "any")
