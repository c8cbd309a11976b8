"""gatewayd.escalators.litert, on models that the installed wheels ship."""

import sys
from importlib.resources import files

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from gatewayd.core.types import Event, Reason, Window
from gatewayd.errors import CascadeError, EscalationError, MissingPackageError
from gatewayd.escalators import litert

WAKE = files("pymicro_wakeword") / "models"
SCALE, ZERO_POINT = 0.10196078568696976, -128  # of okay_nabu's input


def event(window: Window | None) -> Event:
    return Event(0, 1, "c", bytes(8), 0.5, 0, 0, Reason.TRIGGER, window)


def features(rows: np.ndarray) -> Window:
    return Window("features", 16_000, 1, rows.shape, rows.astype(np.int8).tobytes(), SCALE, ZERO_POINT)


def classifier(**changes):
    settings = {"folder": str(WAKE), "model": "okay_nabu.tflite", "labels": ["okay_nabu"], "accept": ["okay_nabu"], "threshold": 0.5}
    return litert.load(settings | changes)


def direct(rows: np.ndarray) -> float:
    net = Interpreter(str(WAKE / "okay_nabu.tflite"))
    net.allocate_tensors()
    net.set_tensor(net.get_input_details()[0]["index"], rows.reshape(1, 3, 40).astype(np.int8))
    net.invoke()
    return net.get_tensor(net.get_output_details()[0]["index"]).item() / 256


@pytest.mark.parametrize("seed", range(3))
def test_a_quantised_classifier_sees_the_bytes_of_the_window(seed):
    rows = np.random.default_rng(seed).integers(-128, 128, (3, 40))
    opinion = classifier(threshold=0.0).classify(event(features(rows)))
    assert opinion.score == pytest.approx(direct(rows), abs=1e-6)
    assert (opinion.accepted, opinion.label, opinion.stages[0][0]) == (True, "okay_nabu", "model")
    assert opinion.model.startswith("okay_nabu ")


def test_below_the_threshold_nothing_is_accepted():
    assert not classifier(threshold=1.0).classify(event(features(np.zeros((3, 40))))).accepted


def test_a_label_that_is_not_in_accept_is_an_opinion_against_the_node():
    opinion = classifier(accept=[], threshold=0.0).classify(event(features(np.zeros((3, 40)))))
    assert (opinion.accepted, opinion.score) == (False, 0.0)


def test_a_network_takes_on_the_shape_of_its_input():
    mel = litert.Network((files("pyopen_wakeword") / "models/melspectrogram.tflite").read_bytes())
    assert mel(np.zeros((1, 16_000), np.float32)).shape[2:] == (97, 32)
    assert mel(np.zeros((1, 32_000), np.float32)).shape[2:] == (197, 32)


@pytest.mark.parametrize(
    ("window", "values"),
    [
        (Window("image_gray8", 0, 1, (1, 2), b"\x00\xff"), [[0, 1]]),
        (Window("tabular", 0, 1, (2,), np.array([1.5, -2], "<f4").tobytes()), [1.5, -2]),
        (Window("ecg", 125, 1, (2,), np.array([-300, 7], "<i2").tobytes()), [-300, 7]),
        (Window("features", 0, 1, (2,), b"\x80\x00", 0.5, -128), [0, 64]),
    ],
)
def test_elements(window, values):
    np.testing.assert_allclose(litert.elements(window), values)


@pytest.mark.parametrize(
    "window",
    [
        None,
        Window("features", 0, 1, (3, 40), bytes(119), SCALE, ZERO_POINT),
        Window("features", 0, 1, (2, 40), bytes(80), SCALE, ZERO_POINT),
        Window("features", 0, 1, (0,), b""),
        Window("adpcm", 16_000, 1, (1, 256), bytes(256)),
    ],
)
def test_a_window_that_does_not_fit_is_an_escalation_error(window):
    with pytest.raises(EscalationError):
        classifier().classify(event(window))


def test_more_labels_than_outputs():
    with pytest.raises(EscalationError, match="1 outputs for 2 labels"):
        classifier(labels=["okay_nabu", "other"]).classify(event(features(np.zeros((3, 40)))))


@pytest.mark.parametrize("changes", [{"model": "absent.tflite"}, {"accept": ["typo"]}, {"threshold": "high"}, {"model": "okay_nabu.json"}])
def test_settings_that_cannot_be_used(changes):
    with pytest.raises(CascadeError):
        classifier(**changes)


def test_the_missing_package_names_its_extra(monkeypatch):
    for name in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=r"gatewayd\[litert\]"):
        classifier()
