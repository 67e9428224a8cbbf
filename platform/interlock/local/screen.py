"""The terminal: steps with their time, lines of the processes, never a reason to fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.markup import escape

COLOURS = ("cyan", "magenta", "yellow", "green", "blue")


class Terminal(Console):
    """rich ends the program once nobody reads its output; there is work to be done then."""

    def on_broken_pipe(self) -> None:
        """What could not be printed is dropped."""


class Screen:
    """Prints with colour on a terminal and plain lines elsewhere.

    A terminal that has gone away (closed window, `| head`) must not keep the servers from being
    stopped, so errors of the output are dropped.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Terminal(highlight=False)
        self.started = time.monotonic()

    def say(self, *renderables: RenderableType) -> None:
        try:
            self.console.print(*renderables)
        except OSError:
            return

    def plain(self, text: str) -> None:
        """Text from elsewhere (paths, log lines, messages): no markup, and no added line ends."""
        try:
            self.console.print(text, markup=False, soft_wrap=True)
        except OSError:
            return

    def elapsed_seconds(self) -> float:
        return time.monotonic() - self.started

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One line when the step is done, with how long it took."""
        begun = time.monotonic()
        yield
        self.say(f"[green]ok[/]  {escape(title)} [dim]{time.monotonic() - begun:.1f} s[/]")


class LogFollower:
    """Copies what is appended to log files to the screen, each line with its process's name."""

    def __init__(self, screen: Screen, files: Sequence[tuple[str, Path]]) -> None:
        self._screen = screen
        self._files = [(name, path, _size(path)) for name, path in files]
        self._width = max((len(name) for name, _ in files), default=0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            self.copy_once()
        self.copy_once()

    def copy_once(self) -> None:
        """Print every complete line that was added since the last call."""
        for index, (name, path, offset) in enumerate(self._files):
            lines, end = _complete_lines(path, offset)
            self._files[index] = (name, path, end)
            colour = COLOURS[index % len(COLOURS)]
            for line in lines:
                self._screen.say(f"[{colour}]{name:<{self._width}}[/] | {escape(line)}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _complete_lines(path: Path, offset: int) -> tuple[list[str], int]:
    if not path.exists():
        return [], 0
    if path.stat().st_size < offset:  # rotated
        offset = 0
    with path.open("rb") as stream:
        stream.seek(offset)
        added = stream.read()
    whole = added[: added.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), offset + len(whole)
