"""Bars for what takes its time: on a terminal, and nowhere else."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def bar(steps: Mapping[str, str]) -> Iterator[Callable[[str, int, int], None]]:
    """Hear of each step how much is done of how much; `steps` names them for people."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        tasks = {step: progress.add_task(words, start=False, visible=False) for step, words in steps.items()}

        def tell(step: str, done: int, total: int) -> None:
            if progress.disable:
                return
            progress.start_task(tasks[step])
            progress.update(tasks[step], completed=done, total=total or 1, visible=True)

        yield tell
