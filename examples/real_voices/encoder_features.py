"""Features of utterances from a frozen Whisper encoder, computed once and kept in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor, WhisperModel
from voices import Voices, checksum, file_name_of

from titans_mal.data.audio import check_waveform, load_audio
from titans_mal.data.virtual_speakers import VirtualSpeaker, other_voices
from titans_mal.modeling.atomic_files import replacing


RATE = 16_000
# A Whisper encoder has positions for 30 s, of which an utterance takes what it needs: it is not padded.
MAX_SECONDS = 29
# Samples that one position of the encoder stands for.
HOP = 320
SEGMENTS = 6


@dataclass(frozen=True)
class Copy:
    """A copy of a corpus by virtual speakers.

    Attributes:
        kind: "voice", where each speaker gets another voice, or "channel", where all are recorded by one other
            microphone in one other room.
        number: which copy of this kind, from 1 on; it is the seed.
    """

    kind: str
    number: int

    def speakers(self, names: Sequence[str]) -> Mapping[str, VirtualSpeaker]:
        """How each speaker's audio is changed."""
        if self.kind == "voice":
            return other_voices(names, self.number)
        return dict.fromkeys(names, VirtualSpeaker.draw(np.random.default_rng((self.number, 1)), voice=False))


class WhisperTurns:
    """Mean and deviation of the outputs of all blocks of a Whisper encoder, over an utterance.

    Args:
        name_or_folder: of a Whisper checkpoint, such as `openai/whisper-tiny.en`.
    """

    def __init__(self, name_or_folder: str):
        self._encoder = WhisperModel.from_pretrained(name_or_folder).encoder.eval()
        self._extractor = WhisperFeatureExtractor.from_pretrained(name_or_folder)
        weights = hashlib.sha256()
        for parameter in self._encoder.parameters():
            weights.update(parameter.detach().float().numpy().tobytes())
        self.fingerprint = weights.hexdigest()[:16]

    @torch.inference_mode()
    def __call__(self, path: Path, change: VirtualSpeaker | None = None) -> np.ndarray:
        """(blocks + 1, 2 * width): mean and deviation of each block's output, both means over up to six segments.

        Raises:
            ValueError: for audio that is silent, or too short for two positions of the encoder.
        """
        waveform = load_audio(str(path))
        waveform = check_waveform(
            waveform if change is None else change(waveform),
            RATE,
            min_seconds=2 * HOP / RATE,
            max_seconds=MAX_SECONDS,
            name=str(path),
        )
        waveform = waveform[: len(waveform) // HOP * HOP]
        given = self._extractor(waveform, sampling_rate=RATE, padding=False, truncation=False, return_tensors="pt")
        rows = []
        for hidden in self._blocks(given.input_features.float()):
            # A deviation needs two positions.
            segments = torch.tensor_split(hidden, min(SEGMENTS, max(1, len(hidden) // 2)))
            means = torch.stack([segment.mean(0) for segment in segments]).mean(0)
            deviations = torch.stack([segment.std(0) for segment in segments]).mean(0)
            rows.append(torch.cat([means, deviations]))
        return torch.stack(rows).numpy()

    def _blocks(self, mel: torch.Tensor) -> list[torch.Tensor]:
        """(positions, width) before the first block and after each, without padding to 30 s."""
        encoder = self._encoder
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        outputs = [hidden]
        for block in encoder.layers:
            output = block(outputs[-1], None)
            outputs.append(output[0] if isinstance(output, tuple) else output)
        outputs[-1] = encoder.layer_norm(outputs[-1])
        return [output[0] for output in outputs]


def features_of(
    voices: Voices, whisper: str, cache: Path, blocks: Sequence[int] | None = None, *, copy: Copy | None = None
) -> np.ndarray:
    """(utterances, features) float32 of all utterances, from the cache where they are there.

    Args:
        voices: of a corpus.
        whisper: name or folder of the checkpoint.
        cache: folder of the files, one for each corpus, encoder and copy.
        blocks: whose outputs are used, 0 for what enters the first; None: all.
        copy: by virtual speakers; None: the utterances as they are.

    Raises:
        ValueError: as `WhisperTurns`, naming the file.
    """
    turns = WhisperTurns(whisper)
    changes = copy.speakers(voices.speakers) if copy else {}
    # The voices of a copy depend on the names of the speakers.
    names = [u.speaker for u in voices.utterances] if copy else []
    key = checksum("\n".join([turns.fingerprint, *voices.checksums, *names]).encode())
    ending = f"_{copy.kind}{copy.number}" if copy else ""
    path = cache / f"{file_name_of(voices.name)}_{key}{ending}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        rows = track(voices.utterances, description=f"{voices.name}{ending} through {whisper}")
        features = [turns(utterance.path, changes.get(utterance.speaker)) for utterance in rows]
        with replacing(path) as draft, draft.open("wb") as file:
            np.save(file, np.stack(features).astype(np.float32))
    found: np.ndarray = np.load(path)
    return (found if blocks is None else found[:, blocks]).reshape(len(found), -1)


class Projection:
    """Principal components of features, of one size each but for small ones; fitted to training utterances.

    Args:
        features: (utterances, features) of the training speakers.
        components: how many are kept.
    """

    def __init__(self, features: np.ndarray, components: int = 256):
        self._mean, self._scale = features.mean(0), features.std(0).clip(min=1e-5)
        standardised = torch.from_numpy((features - self._mean) / self._scale)
        with torch.random.fork_rng():  # the same utterances give the same components
            torch.manual_seed(0)
            _, sizes, directions = torch.pca_lowrank(standardised, q=min(components, *features.shape), niter=4)
        variances = sizes.square() / (len(features) - 1)
        self._directions = directions / (variances + variances.mean()).sqrt()

    def __call__(self, features: np.ndarray) -> torch.Tensor:
        """(utterances, components) float32."""
        return torch.from_numpy((features - self._mean) / self._scale) @ self._directions
