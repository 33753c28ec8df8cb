"""Who talks, by a stand-in for embeddings of voices, and by a tiny random model of the real kind."""

import numpy as np
import pytest
from audio_files import to_wav
from tiny_models import tone
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

from titans_mal.cli.analyze_inputs import check_speaker_options, with_speakers
from titans_mal.live.speakers import SpeakerAssigner, VoiceEmbedder, fit_threshold


RATE = 16_000


def voice(angle, seconds=2.0):
    """A turn whose stand-in of an embedding points into a direction, in degrees."""
    return np.full(round(seconds * RATE), angle, np.float32)


def embed(waveform):
    angle = np.deg2rad(float(waveform[0]))
    return 5 * np.array([np.cos(angle), np.sin(angle)])


def test_turns_are_given_to_the_most_similar_voice():
    assigner = SpeakerAssigner(embed, threshold=0.8)
    angles = (0, 90, 10, 80, 180, -10)
    assert [assigner.assign(voice(angle)) for angle in angles] == [
        f"speaker {number}" for number in (1, 2, 1, 2, 3, 1)
    ]


def test_a_speaker_is_the_mean_of_what_was_given():
    """Voices drift: 30 degrees are too far from the first turn, and near the mean of two."""
    assert SpeakerAssigner(embed, threshold=0.9).assign(voice(0)) == "speaker 1"
    drifting = SpeakerAssigner(embed, threshold=0.9)
    assert [drifting.assign(voice(angle)) for angle in (0, 20, 35)] == ["speaker 1"] * 3
    jumping = SpeakerAssigner(embed, threshold=0.9)
    assert [jumping.assign(voice(angle)) for angle in (0, 35)] == ["speaker 1", "speaker 2"]


def test_short_turns_and_a_bound_make_no_speaker():
    assigner = SpeakerAssigner(embed, threshold=0.8, max_speakers=2)
    assert assigner.assign(voice(0, 0.3)) == "speaker 1"  # somebody talks
    assert assigner.assign(voice(90, 0.3)) == "speaker 1"
    assert [assigner.assign(voice(angle)) for angle in (90, 180)] == ["speaker 2", "speaker 2"]
    for wrong in ({"threshold": 1.0}, {"threshold": float("nan")}, {"max_speakers": 0}):
        with pytest.raises(ValueError, match="must be"):
            SpeakerAssigner(embed, **wrong)


def test_a_threshold_is_fitted_to_known_speakers():
    """Turns of one speaker are at most 10 degrees apart, those of two at least 50."""
    angles, speakers = (0, 10, 60, 70, 130), "AABBC"
    threshold, error = fit_threshold([embed(voice(angle)) for angle in angles], [*speakers])
    assert (np.cos(np.deg2rad(50)) < threshold < np.cos(np.deg2rad(10)), error) == (True, 0.0)
    assigner = SpeakerAssigner(embed, threshold=threshold)
    assert [assigner.assign(voice(angle)) for angle in angles] == [f"speaker {number}" for number in (1, 1, 2, 2, 3)]
    # Where voices overlap, both errors are about as frequent: 1 of 2 pairs of one speaker, 3 of 4 of two.
    _, error = fit_threshold([embed(voice(angle)) for angle in (0, 40, 20, 60)], [*"AABB"])
    assert error == pytest.approx(0.625)
    for names in ("AAAA", "ABCD"):
        with pytest.raises(ValueError, match="at least two speakers"):
            fit_threshold([embed(voice(angle)) for angle in (0, 40, 20, 60)], [*names])


def test_a_model_of_transformers_embeds_voices(tmp_path):
    config = WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_stride=(40, 8), conv_kernel=(40, 8), num_feat_extract_layers=2, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, tdnn_dim=(8, 8), tdnn_kernel=(3, 1), tdnn_dilation=(1, 1),
        xvector_output_dim=6,
    )  # fmt: skip
    WavLMForXVector(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(tmp_path)
    embedder = VoiceEmbedder(str(tmp_path))
    long, short = embedder(tone(1.5)), embedder(tone(0.2))
    assert long.shape == short.shape == (6,)
    assert np.isfinite(long).all()
    np.testing.assert_array_equal(long, embedder(tone(1.5)))
    assert embedder(tone(0.2)[100:101]).shape == (6,)
    with pytest.raises(ValueError, match="must have at least one sample"):
        SpeakerAssigner(embedder).assign(np.zeros(0, np.float32))


def test_the_command_names_speakers_by_their_voices(tmp_path, monkeypatch):
    recording = tmp_path / "call.wav"
    recording.write_bytes(to_wav(np.concatenate([np.full(2 * RATE, 0.25), np.full(2 * RATE, 0.5)])))
    turns = [{"file": str(recording), "audio": f"{recording}#t={start},{start + 2}"} for start in (0, 2, 0)]
    monkeypatch.setattr("titans_mal.live.speakers.VoiceEmbedder", lambda name: lambda audio: embed(360 * audio))
    named = [turn["speaker"] for turn in with_speakers(turns, "org/voices", None)]
    assert named == ["speaker 1", "speaker 2", "speaker 1"]
    assert {turn["speaker"] for turn in with_speakers(turns, "org/voices", 1)} == {"speaker 1"}
    assert {turn["speaker"] for turn in with_speakers(turns, "org/voices", None, -0.9)} == {"speaker 1"}
    numbered = [tmp_path / f"call #{number}.wav" for number in (1, 2)]
    for path in numbered:
        path.write_bytes(recording.read_bytes())
    with pytest.raises(ValueError, match="one recording without speakers"):
        with_speakers([{"file": str(path), "audio": str(path)} for path in numbered], "org/voices", None)
    parts = [{"file": f"{numbered[0]}#t=0,2", "audio": f"{numbered[0]}#t=0,2"}, {**turns[0], "file": str(numbered[0])}]
    assert len(with_speakers(parts, "org/voices", None)) == 2
    with pytest.raises(ValueError, match="one recording without speakers"):
        with_speakers([*turns, {"file": "other.wav"}], "org/voices", None)
    with pytest.raises(ValueError, match="--segments and --speakers-by all define the speakers"):
        check_speaker_options(None, recording, None, None, "org/voices", None)
    with pytest.raises(ValueError, match="--max-speakers needs --speakers-by"):
        check_speaker_options(None, None, None, None, None, 2)
    with pytest.raises(ValueError, match="--speaker-threshold needs --speakers-by"):
        check_speaker_options(None, None, None, None, None, None, 0.7)
