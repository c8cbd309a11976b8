"""The vibration cascade: motors, the model and its file, commissioning, the gateway's verifier, and a real test rig."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cascades.native import Network
from cascades.tflite import Dense, fully_connected
from cascades.vibration import commission, evaluate, real, simulator, train
from gatewayd.core import cascade
from gatewayd.core.types import Event, Reason, Window, WindowKind
from gatewayd.errors import CascadeError, EscalationError
from gatewayd.escalators import vibration

RATE_HZ = simulator.RATE_HZ
FOLDER = Path(commission.__file__).parent

pytestmark = pytest.mark.usefixtures("host_build")


def event(samples: NDArray[np.int16], rate_hz: int = RATE_HZ, kind: WindowKind = WindowKind.VIBRATION) -> Event:
    window = Window(kind, rate_hz, 1, (len(samples),), samples.astype("<i2").tobytes())
    return Event(0, 0, "vibration", bytes(8), 0.5, 0, 0, Reason.TRIGGER, window)


@pytest.fixture(scope="module")
def settings() -> dict[str, object]:
    document = tomllib.loads((FOLDER / "cascade.toml").read_text(encoding="utf-8"))
    return {**cascade.parse(document, "cascade.toml").gateway.settings, "folder": str(FOLDER)}


@pytest.fixture(scope="module")
def network() -> Network:
    return Network((FOLDER / "node.tflite").read_bytes())


# ---- geometry and motors


def test_orders_of_a_data_sheet() -> None:
    # SKF's figures for its 6205-2RS JEM, as the CWRU bearing data centre gives them.
    orders = vibration.Bearing(9, 7.94, 39.04).orders()
    assert orders["outer race"] == pytest.approx(3.5848, abs=0.002)
    assert orders["inner race"] == pytest.approx(5.4152, abs=0.002)
    assert orders["rolling element"] == pytest.approx(4.7135, abs=0.002)
    assert vibration.Bearing(9, 7.94, 39.04).cage_order() == pytest.approx(0.39828, abs=0.001)
    tilted = vibration.Bearing(9, 7.94, 39.04, 40).orders()
    assert tilted["outer race"] > orders["outer race"]
    assert tilted["outer race"] + tilted["inner race"] == pytest.approx(9)


def test_a_recording_follows_from_its_seed() -> None:
    m = simulator.machine(5, 2)
    one, same, other = (simulator.record(m, 1, seed, "inner race", 0.5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.mean(one == other) < 0.1
    assert one.dtype == np.int16
    assert len(one) == RATE_HZ


def test_severity_is_the_faults_rms_in_units_of_the_noise() -> None:
    m = simulator.machine(7)
    for fault in simulator.FAULTS:
        healthy, faulty = (simulator.record(m, 8, 3, fault, s).astype(float) for s in (0.0, 2.0))
        added = (faulty - healthy) * m.lsb_mps2
        assert np.sqrt(np.mean(added**2)) == pytest.approx(2 * m.noise_mps2, rel=0.25), fault


def test_units_of_a_type_are_more_alike_than_types() -> None:
    def bands(kind: int, unit: int) -> NDArray[np.int16]:
        return commission.features([simulator.record(simulator.machine(kind, unit), 10, 0)]).mean(axis=0)

    within = np.abs(bands(11, 0) - bands(11, 1)).mean()
    assert within * 2 < np.abs(bands(11, 0) - bands(12, 0)).mean()


def test_a_failing_bearing_is_healthy_first_and_worst_last() -> None:
    m = simulator.machine(0, 40)
    failing, healthy = simulator.run_to_failure(m, 12, 6, 9), simulator.record(m, 12, 9)
    np.testing.assert_array_equal(failing[: 6 * RATE_HZ], healthy[: 6 * RATE_HZ])
    change = np.abs(failing.astype(float) - healthy)
    assert change[-RATE_HZ:].mean() > 3 * change[6 * RATE_HZ : 7 * RATE_HZ].mean() > 0
    with pytest.raises(ValueError, match="outer race"):
        simulator.record(m, 1, 0, "rust", 1)


def test_wav_round_trip(tmp_path: Path) -> None:
    x = simulator.record(simulator.machine(1), 0.5, 0)
    simulator.write_wav(tmp_path / "a.wav", x)
    read, rate_hz = simulator.read_wav(tmp_path / "a.wav")
    np.testing.assert_array_equal(read, x)
    assert rate_hz == RATE_HZ


# ---- the node's model


def test_gradients_are_the_slope_of_the_error() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (5, 4))
    params = [rng.normal(0, 0.5, shape) for shape in ((3, 4), (3,), (4, 3), (4,))]

    def error() -> float:
        hidden = np.maximum(x @ params[0].T + params[1], 0)
        return float(np.mean((hidden @ params[2].T + params[3] - x) ** 2))

    for p, slope in zip(params, train.gradients(params, x), strict=True):
        at = tuple(rng.integers(0, n) for n in p.shape)
        p[at] += 1e-6
        above = error()
        p[at] -= 2e-6
        below = error()
        p[at] += 1e-6
        assert slope[at] == pytest.approx((above - below) / 2e-6, abs=1e-6)


def test_a_written_network_computes_what_was_written() -> None:
    rng = np.random.default_rng(1)
    w1, b1, w2, b2 = rng.normal(0, 0.4, (6, 8)), rng.normal(0, 0.2, 6), rng.normal(0, 0.4, (3, 6)), rng.normal(0, 0.2, 3)
    model = fully_connected([Dense(w1, b1, True, 4 / 255, -128), Dense(w2, b2, False, 1 / 32, 5)], 1 / 64, -3)
    net = Network(model)
    assert (net.input_scale, net.input_zero_point, net.output_scale, net.output_zero_point) == (1 / 64, -3, 1 / 32, 5)
    rows = rng.integers(-128, 128, (50, 8)).astype(np.int8)
    real_x = (rows.astype(float) + 3) / 64
    wanted = np.minimum(np.maximum(real_x @ w1.T + b1, 0), 4) @ w2.T + b2
    got = (net(rows).astype(float) - 5) / 32
    assert np.abs(got - wanted).max() < 0.08


def test_the_node_and_tflite_micro_agree_to_the_bit(network: Network) -> None:
    runtime = pytest.importorskip("tflite_micro").runtime
    oracle = runtime.Interpreter.from_bytes((FOLDER / "node.tflite").read_bytes())
    rows = np.random.default_rng(2).integers(-128, 128, (200, commission.BANDS)).astype(np.int8)
    for row, got in zip(rows, network(rows), strict=True):
        oracle.set_input(row[None], 0)
        oracle.invoke()
        np.testing.assert_array_equal(oracle.get_output(0)[0], got)


def test_the_arena_in_the_description_is_enough(network: Network) -> None:
    document = tomllib.loads((FOLDER / "cascade.toml").read_text(encoding="utf-8"))
    assert network.arena_used_bytes <= document["node"]["arena_bytes"]
    with pytest.raises(ValueError, match="nn"):
        Network((FOLDER / "node.tflite").read_bytes(), 64)


def test_the_description_says_what_training_used() -> None:
    parsed = cascade.parse(tomllib.loads((FOLDER / "cascade.toml").read_text(encoding="utf-8")), "cascade.toml")
    fe, d = parsed.node.front_end, parsed.node.decision
    assert (fe.rate_hz, fe.window, fe.step, fe.channels) == (commission.RATE_HZ, 512, commission.FRAMES, commission.BANDS)
    assert (fe.low_hz, fe.high_hz) == (commission.LOW_HZ, commission.HIGH_HZ)
    assert (d.rule, d.window, d.clip_ms) == ("error", commission.WINDOW, commission.CLIP_MS)
    assert {"outer race", "inner race"} <= set(parsed.policy.actions)


# ---- the shipped cascade, on motors of its type that nothing was fitted to


def test_the_shipped_node_hears_a_bearing_fail(network: Network) -> None:
    document = tomllib.loads((FOLDER / "cascade.toml").read_text(encoding="utf-8"))
    cutoff = document["node"]["decision"]["cutoff"]
    offset, gain = np.frombuffer((FOLDER / "normalisation.bin").read_bytes(), "<i2").reshape(-1, 2).T
    errors = commission.node_errors(network, offset, gain, simulator.run_to_failure(simulator.machine(0, 32), 40, 15, 32))
    assert errors[:20].max() < cutoff
    assert errors[-1] > 2 * cutoff


@pytest.mark.parametrize("fault", simulator.FAULTS)
def test_the_shipped_verifier_names_the_fault(settings: dict[str, object], fault: str) -> None:
    model = vibration.load(settings)
    for unit in (50, 51, 52):
        opinion = model.classify(event(simulator.record(simulator.machine(0, unit), 2, unit, fault, 1.5)))
        assert (opinion.accepted, opinion.label) == (True, fault)
        assert 0.5 < opinion.score < 1
        assert fault in opinion.text


def test_the_shipped_verifier_rejects_healthy_motors(settings: dict[str, object]) -> None:
    model = vibration.load(settings)
    opinions = [model.classify(event(simulator.record(simulator.machine(0, unit), 2, 77 + unit))) for unit in range(60, 80)]
    assert sum(o.accepted for o in opinions) <= 1
    assert all(o.label == "healthy" and o.score <= 0.5 for o in opinions if not o.accepted)


def test_a_dead_sensor_is_named(settings: dict[str, object]) -> None:
    opinion = vibration.load(settings).classify(event(np.full(RATE_HZ, 2047, np.int16)))
    assert (opinion.accepted, opinion.label) == (True, "sensor")


@pytest.mark.parametrize("shaft_hz", [23.61, 24.37, 25.9])
def test_the_shaft_is_found_by_its_harmonics(shaft_hz: float) -> None:
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    x = np.random.default_rng(3).normal(0, 1, len(t)) + sum(np.sin(2 * np.pi * k * shaft_hz * t) / k for k in (1, 2, 3, 4))
    assert vibration.estimate_shaft(x, RATE_HZ, 23, 26.5)[0] == pytest.approx(shaft_hz, abs=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        event(np.zeros(RATE_HZ // 2, np.int16)),
        event(np.zeros(RATE_HZ, np.int16), rate_hz=16000),
        event(np.zeros(RATE_HZ, np.int16), kind=WindowKind.PCM16),
        event(np.zeros(RATE_HZ, np.int16))._replace(window=None),
        event(np.zeros(RATE_HZ, np.int16))._replace(window=Window(WindowKind.VIBRATION, RATE_HZ, 1, (1,), bytes(2 * RATE_HZ + 1))),
    ],
)
def test_a_window_that_is_not_the_references_is_no_opinion(settings: dict[str, object], wrong: Event) -> None:
    with pytest.raises(EscalationError):
        vibration.load(settings).classify(wrong)


@pytest.mark.parametrize(
    "change", [{"reference": "none.npz"}, {"reference": "cascade.toml"}, {"bearing": {"balls": 9}}, {"shaft_hz": [1.0]}, {"folder": None}]
)
def test_settings_that_cannot_be_used(settings: dict[str, object], change: dict[str, object]) -> None:
    with pytest.raises(CascadeError):
        vibration.load(settings | change)


# ---- commissioning another machine


def test_commissioning_makes_a_cascade_that_knows_its_machine(tmp_path: Path, network: Network) -> None:
    m = simulator.machine(301)
    baseline, calibration = ([simulator.record(m, 15, 100 * part + i) for i in range(6)] for part in range(2))
    fitted = commission.commission(network, baseline, calibration, m.bearing, train.speed_range(m))
    folder = tmp_path / "pump"
    commission.write(folder, fitted, m.bearing, train.speed_range(m), "pump")
    parsed = cascade.parse(tomllib.loads((folder / "cascade.toml").read_text(encoding="utf-8")), "pump")
    assert parsed.name == "pump"
    assert parsed.node.decision.cutoff == pytest.approx(fitted.cutoff, rel=1e-3)
    assert 0.5 <= parsed.policy.alone_score < 1
    model = vibration.load({**parsed.gateway.settings, "folder": str(folder)})
    assert model.bearing == m.bearing
    assert not model.classify(event(simulator.record(m, 2, 999))).accepted
    assert model.classify(event(simulator.record(m, 2, 999, "outer race", 1.0))).label == "outer race"
    assert model.classify(event(simulator.record(simulator.machine(302), 2, 999))).accepted  # another machine is not this one
    offset, gain = np.frombuffer((folder / "normalisation.bin").read_bytes(), "<i2").reshape(-1, 2).T
    np.testing.assert_array_equal(offset, fitted.offset)
    assert gain.min() > 0


def test_limits_come_from_the_calibration_and_not_from_the_baseline(network: Network) -> None:
    m = simulator.machine(303)
    baseline = [simulator.record(m, 15, i) for i in range(4)]
    louder = [simulator.record(m, 15, 50 + i, "imbalance", 0.5) for i in range(2)]
    tight = commission.commission(network, baseline, baseline, m.bearing, train.speed_range(m))
    wide = commission.commission(network, baseline, louder, m.bearing, train.speed_range(m))
    np.testing.assert_array_equal(tight.offset, wide.offset)
    assert wide.cutoff > 1.5 * tight.cutoff
    assert (wide.reference.cutoff > tight.reference.cutoff).all()


def test_values_are_set_and_comments_stay() -> None:
    toml = 'name = "a" # who\n[b]\ncutoff = 1.0\nplace = { x = 1 }\n'
    done = commission.set_values(toml, {"name": "c-d", "cutoff": 2.5, "place": {"x": 3, "y": [1]}})
    assert done == 'name = "c-d" # who\n[b]\ncutoff = 2.5\nplace = { x = 3, y = [1] }\n'
    with pytest.raises(KeyError):
        commission.set_values(toml, {"nothing": 1})


def test_wilson_interval() -> None:
    assert evaluate.wilson(0, 10) == "0.000 (0.000 to 0.278), 0/10"
    assert evaluate.wilson(8, 10) == "0.800 (0.490 to 0.943), 8/10"


def test_the_commands_write_recordings_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in ("1", "2"):
        monkeypatch.setattr("sys.argv", ["simulator", str(tmp_path / f"{seed}.wav"), "--seconds", "20", "--seed", seed])
        simulator.main()
    arguments = ["--baseline", str(tmp_path / "1.wav"), "--calibration", str(tmp_path / "2.wav"), "--shaft-hz", "47", "48.7"]
    monkeypatch.setattr("sys.argv", ["commission", str(tmp_path / "pump"), *arguments, "--bearing", "8", "7.938", "33.5"])
    commission.main()
    assert {path.name for path in (tmp_path / "pump").iterdir()} == {"cascade.toml", "node.tflite", "normalisation.bin", "gateway.npz"}


# ---- real recordings


def test_real_bearings() -> None:
    try:
        recordings = real.recordings()
    except OSError as error:
        pytest.skip(f"the recordings cannot be had: {error}")
    assert len(recordings) == 20
    trials = list(evaluate.real_rig(Network((FOLDER / "node.tflite").read_bytes())))
    faulty, healthy = [t for t in trials if t.fault], [t for t in trials if not t.fault]
    assert len(healthy) == 15
    assert sum(t.cascade for t in faulty) / len(faulty) > 0.95
    assert sum(t.cascade and t.label == t.fault for t in faulty) / len(faulty) > 0.9
    assert sum(t.cascade for t in healthy) <= 1
