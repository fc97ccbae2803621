"""A progress bar on stderr for what a person waits for; silent where stderr is no terminal."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` under a bar called `label`; `total` is their number where it is known."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    yield from rich_track(items, label, total=total, console=console, transient=True)


def measure(pieces: Iterable[bytes], label: str, done: int, total: int | None) -> Iterator[bytes]:
    """Yield `pieces` under a bar that counts bytes, of which `done` were there before."""
    if not sys.stderr.isatty():
        yield from pieces
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, completed=done)
        for piece in pieces:
            yield piece
            bar.advance(task, len(piece))
