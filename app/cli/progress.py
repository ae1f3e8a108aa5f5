"""How far a command is: a bar on a terminal, lines in a pipe."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

QUIET_S = 2.0


class _TerminalProgress:
    """A bar on a terminal, a plain line every other second in a pipe."""

    def __init__(self) -> None:
        self.bar = sys.stderr.isatty()
        self.reported_at = time.monotonic()
        self.started = self.reported_at

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Say how far it is."""
        share = min(done / total, 1.0) if total else 1.0
        moment = time.monotonic()
        if self.bar:
            left = (moment - self.started) * (1 - share) / share if share else 0
            filled = "█" * round(30 * share)
            click.echo(f"\r{stage:24} {filled:30} {share:4.0%} {left:4.0f} s left ", nl=False, err=True)
        elif moment - self.reported_at > QUIET_S:
            click.echo(f"{stage}: {share:.0%}", err=True)
            self.reported_at = moment

    def end(self) -> None:
        """Leave the line of the bar."""
        if self.bar:
            click.echo(f"\r{'':79}\r", nl=False, err=True)


@contextmanager
def progress_bar() -> Iterator[_TerminalProgress]:
    """A progress that leaves no trace when it is done."""
    progress = _TerminalProgress()
    try:
        yield progress
    finally:
        progress.end()
