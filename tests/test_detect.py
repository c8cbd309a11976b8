"""The node's decision rules, audit samples and score statistics."""

import ctypes
import itertools
import random
import statistics

import pytest

AVERAGE, ERROR = 0, 1
NOTHING, TRIGGER, AUDIT = 0, 1, 2
NEVER = 2**32 - 1  # random bits that no audit is drawn by


class Config(ctypes.Structure):
    _fields_ = [
        ("rule", ctypes.c_int),
        ("cutoff", ctypes.c_float),
        ("window", ctypes.c_uint16),
        ("hold_off_ms", ctypes.c_uint32),
        ("audit_mean_s", ctypes.c_uint32),
    ]


class Stats(ctypes.Structure):
    _fields_ = [("count", ctypes.c_uint32), ("mean", ctypes.c_float), ("m2", ctypes.c_float), ("histogram", ctypes.c_uint32 * 8)]


class Detect(ctypes.Structure):
    _fields_ = [
        ("config", Config),
        ("values", ctypes.c_float * 32),
        ("count", ctypes.c_uint16),
        ("next", ctypes.c_uint16),
        ("held", ctypes.c_bool),
        ("above", ctypes.c_bool),
        ("timed", ctypes.c_bool),
        ("triggered_ms", ctypes.c_uint32),
        ("last_ms", ctypes.c_uint32),
        ("score", ctypes.c_float),
        ("stats", Stats),
    ]


class Detector:
    def __init__(self, lib, *, rule=AVERAGE, cutoff=0.5, window=5, hold_off_ms=0, audit_mean_s=0):
        self.lib, self.state = lib, Detect()
        lib.detect_push.argtypes = [ctypes.c_void_p, ctypes.c_float, ctypes.c_uint32, ctypes.c_uint32]
        config = Config(rule, cutoff, window, hold_off_ms, audit_mean_s)
        self.status = lib.detect_init(ctypes.byref(self.state), ctypes.byref(config))

    def push(self, value, now_ms=0, bits=NEVER):
        return self.lib.detect_push(ctypes.byref(self.state), value, now_ms % 2**32, bits)


@pytest.mark.parametrize(
    "config",
    [
        {"rule": 2},
        {"cutoff": 0.0},
        {"cutoff": -1.0},
        {"cutoff": 1.01},
        {"cutoff": float("nan")},
        {"rule": ERROR, "cutoff": float("inf")},
        {"window": 0},
        {"window": 33},
        {"audit_mean_s": 4_294_968},
    ],
)
def test_bad_configuration_is_refused(libnode, config):
    assert Detector(libnode, **config).status == -1


def test_average_is_esphomes_rule(libnode):
    draw = random.Random(1)
    for _ in range(300):
        cutoff, window = draw.randint(1, 1000) / 1000, draw.randint(1, 32)
        detector, recent = Detector(libnode, cutoff=cutoff, window=window), []
        assert detector.status == 0
        armed = True
        for now_ms in range(100):
            centre = int(cutoff * 255)
            recent = [*recent, max(0, min(255, centre + draw.randint(-2, 2)))][-window:]
            above = len(recent) == window and sum(recent) > int(cutoff * 255) * window
            assert detector.push(recent[-1], now_ms) == (TRIGGER if above and armed else NOTHING)
            assert detector.state.score == pytest.approx(statistics.mean(recent) / 255, rel=1e-6)
            armed = not above


def test_window_must_be_full(libnode):
    detector = Detector(libnode, window=3)
    assert [detector.push(255) for _ in range(4)] == [NOTHING, NOTHING, TRIGGER, NOTHING]
    detector.lib.detect_reset(ctypes.byref(detector.state))
    assert [detector.push(255) for _ in range(3)] == [NOTHING, NOTHING, TRIGGER]
    assert detector.state.stats.count == 3


def test_no_trigger_in_the_hold_off_nor_before_the_sum_has_fallen(libnode):
    detector = Detector(libnode, window=1, hold_off_ms=1000)
    start = 2**32 - 500  # the clock wraps in between
    assert detector.push(200, start) == TRIGGER
    assert detector.push(200, start + 1500) == NOTHING  # never fell
    assert detector.push(127, start + 1600) == NOTHING  # at the cutoff: fell
    assert detector.push(200, start + 1700) == TRIGGER
    assert detector.push(0, start + 1800) == NOTHING
    assert detector.push(200, start + 2699) == NOTHING  # fell, but too early
    assert detector.push(200, start + 2700) == TRIGGER


def test_error_rule(libnode):
    detector = Detector(libnode, rule=ERROR, cutoff=0.5, window=4)
    assert [detector.push(v) for v in (0.5, 0.5, 0.5, 0.5, 0.5001)] == [NOTHING] * 4 + [TRIGGER]
    assert detector.state.score == pytest.approx(0.5, abs=1e-4)
    for _ in range(4):
        detector.push(1.5)
    assert detector.state.score == pytest.approx(0.75)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_a_broken_model_gives_a_finite_score(libnode, value):
    detector = Detector(libnode, rule=ERROR, window=32)
    for _ in range(40):
        detector.push(value)
        assert 0 <= detector.state.score <= 1
    detector.push(-1.0)
    assert 0 <= detector.state.stats.mean <= 1


def test_statistics(libnode):
    draw, detector, scores = random.Random(2), Detector(libnode, rule=ERROR, cutoff=0.1, window=1), []
    for _ in range(5000):
        detector.push(draw.expovariate(5))
        scores.append(detector.state.score)
    stats = detector.state.stats
    assert stats.count == len(scores)
    assert stats.mean == pytest.approx(statistics.mean(scores), rel=1e-4)
    assert stats.m2 / stats.count == pytest.approx(statistics.pvariance(scores), rel=1e-3)
    assert list(stats.histogram) == [sum(int(score * 8) == bin_ for score in scores) for bin_ in range(8)]


def test_the_highest_score_is_in_the_last_bin(libnode):
    detector = Detector(libnode, window=1, cutoff=1.0)
    assert detector.push(255) == NOTHING
    assert detector.state.score == 1
    assert list(detector.state.stats.histogram) == [0] * 7 + [1]


def audit_times_ms(libnode, step_ms, count, value=0.0):
    draw, detector, times = random.Random(3), Detector(libnode, audit_mean_s=60, hold_off_ms=2000, window=2), []
    for i in range(count):
        outcome = detector.push(value(i) if callable(value) else value, i * step_ms, draw.getrandbits(32))
        if outcome == AUDIT:
            assert not detector.state.held
            times.append(i * step_ms)
    return times


@pytest.mark.parametrize("step_ms", [30, 1000])
def test_times_between_audits_are_exponential(libnode, step_ms):
    times = audit_times_ms(libnode, step_ms, 400_000 if step_ms == 30 else 100_000)
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    mean = statistics.mean(gaps)
    error = 4 / len(gaps) ** 0.5  # four standard errors of an exponential distribution's mean
    assert mean == pytest.approx(60_000, rel=error)
    assert statistics.pstdev(gaps) == pytest.approx(mean, rel=2 * error)
    assert gaps[len(gaps) // 2] == pytest.approx(0.693 * mean, rel=2 * error)


def test_audits_fall_on_quiet_windows_at_the_same_rate(libnode):
    """In every 10 s the node triggers and is held for 2 s, so four fifths of the audits remain."""
    times = audit_times_ms(libnode, 100, 300_000, lambda i: 255 if i % 100 < 2 else 0)
    assert len(times) == pytest.approx(300_000 * 0.1 / 60 * 0.8, rel=4 / len(times) ** 0.5)
    assert all(t % 10_000 < 200 or t % 10_000 >= 2000 for t in times)


def test_no_audit_when_there_is_none_configured(libnode):
    detector = Detector(libnode, window=1)
    assert {detector.push(0, now_ms, 0) for now_ms in range(0, 10_000, 100)} == {NOTHING}
