"""The environment variables of a deployment, read and validated once, at boot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Env(BaseSettings):
    """What a deployment sets. A missing or impossible value stops the process with its name."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="INTERLOCK_", extra="ignore", env_ignore_empty=True
    )

    database_url: str = Field(alias="DATABASE_URL")
    """``postgres://user:password@host:port/name``. The truth."""
    broker_url: str = Field(alias="BROKER_URL")
    """``amqp://…``; ``redis://…`` only for the embedded default on one machine."""
    cache_url: str = Field("", alias="CACHE_URL")
    """``redis://host:port/db``. Empty: every status is read from the database."""
    secret_key: str = Field(min_length=20)
    """Django's SECRET_KEY."""
    debug: bool = False
    """Never in production: it shows internals to strangers and keeps every query in memory."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ("localhost", "127.0.0.1", "[::1]")
    """Host names that the API answers to, separated by commas."""
    csrf_trusted_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins like ``https://jobs.example.org`` whose forms the admin accepts."""
    secure: bool = False
    """Behind TLS: secure cookies, HSTS, redirect to https, and trust X-Forwarded-Proto."""
    trusted_proxies: int = Field(0, ge=0, le=10)
    """Proxies in front of every API process that add to X-Forwarded-For; 0 believes nobody."""
    data_dir: Path = Path("data")
    """Where uploads and artifacts live; api and workers share it."""
    static_root: Path | None = None
    """Where ``collectstatic`` puts the admin's files. Default: ``static`` in the data directory."""
    data_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Directories whose files a payload may name, separated like PATH."""
    jobs: dict[str, Any] = {}
    """JSON object that overrides keys of Django's ``JOBS`` setting."""
    log_level: str = "INFO"
    """Level of the platform's own log lines."""

    @field_validator("allowed_hosts", "csrf_trusted_origins", mode="before")
    @classmethod
    def _by_comma(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("data_roots", mode="before")
    @classmethod
    def _by_path_separator(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value

    @property
    def broker_is_amqp(self) -> bool:
        return self.broker_url.startswith("amqp")


env = Env()
