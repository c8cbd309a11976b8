"""A larger model that misbehaves on demand: the event's label says how. Found by kind in a worker process, here or under a real gateway."""

import os
import signal
import sys
import time
from pathlib import Path

from gatewayd.core.types import Opinion

ACCEPT, DIE, HANG, RAISE, WAIT = range(5)


class Model:
    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def classify(self, event):
        (self._folder / f"judging-{event.seq}").touch()
        if event.label == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if event.label == HANG:
            time.sleep(3_600)
        if event.label == RAISE:
            raise RuntimeError("no idea")
        while event.label == WAIT and not (self._folder / "go").exists():
            time.sleep(0.01)
        return Opinion(accepted=True, label="yes", score=0.9, model=self._name, text=str(os.getpid()))


def load(settings):
    folder = Path(settings["folder"])
    if (folder / "broken").exists():
        raise ValueError("weights are missing")
    return Model(folder, settings.get("name", "fake 1"))


def find(_kind):
    """A WorkerPool's `find`."""
    return sys.modules[__name__]
