"""One fold of the feature form: models are chosen on validation speakers, trained, and scored on test speakers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np
import torch
from corpus import Corpus, Scripts
from dialogues import Composer, Dialogue
from encoder_features import Projection
from intervals import average_recall
from models import Attention, Batch, Memory, Oracle, RunningMean, Utterance, decode_transitions
from networks import AveragedReadout, fit_network
from scored_dialogues import TestDialogues
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from titans_mal.training.voices import fit_voice_layer, weights_by_label


TRAINING_DIALOGUES = 3200
BATCH, STEPS, LEARNING_RATE = 48, 300, 2e-3
PENALTIES, SHRINKAGES, WEIGHTS = (0.01, 0.03), (1.0, 2.0), (0.25, 0.5, 1.0)
WITH_SHRINKAGE = ("running_mean", "memory", "memory_speaker", "oracle")
TRAINED = ("utterance", *WITH_SHRINKAGE, "attention_8")


class Part:
    """Models trained on some speakers of a corpus.

    Args:
        corpus, train: whose utterances of which speakers are trained on.
        labels: how many emotions.
        scripts: of the dialogues.
        seed: of all that is drawn.
    """

    def __init__(self, corpus: Corpus, train: Sequence[int], labels: int, scripts: Scripts, *, seed: Sequence[int]):
        self.labels, self.scripts = labels, scripts
        is_train = np.isin(corpus.people, train)
        self._projection = Projection(corpus.features[is_train])
        self.hidden = self._projection(corpus.features)
        self._fitted = self.hidden[is_train], [str(s) for s in corpus.speakers[is_train]], corpus.emotions[is_train]
        self._weight = int(is_train[: corpus.originals].sum())
        self._emotions = torch.from_numpy(corpus.emotions)
        self._layer: dict[str, Tensor] | None = None
        # What readouts are fitted to, which depends on the memory's options and not on the penalty.
        self._turns: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
        self._dialogues = self._compose(corpus, is_train, seed)

    def _compose(self, corpus: Corpus, is_train: np.ndarray, seed: Sequence[int]) -> list[Dialogue]:
        """The training dialogues, of one channel each."""
        given = self.scripts.training(self.labels, seed=(*seed, 1))
        channels = np.unique(corpus.channels[is_train])
        dialogues = []
        for channel in channels:
            is_here = is_train & (corpus.channels == channel)
            speakers = np.where(is_here, corpus.speakers, -1)
            composer = Composer(
                speakers, corpus.emotions, np.unique(corpus.speakers[is_here]), seed=(*seed, 0, channel)
            )
            dialogues += composer.draw(given, TRAINING_DIALOGUES // len(channels))[0]
        return dialogues

    def project(self, corpus: Corpus) -> Tensor:
        """(utterances, width), the hidden states of a corpus."""
        return self._projection(corpus.features)

    def make(self, name: str, *, shrinkage: float = 1.0) -> Utterance:
        """A model that is not trained yet, its memory fitted."""
        width = self.hidden.shape[1]
        if name == "utterance":
            return Utterance(width, self.labels)
        if name == "running_mean":
            return RunningMean(width, self.labels, shrinkage=shrinkage)
        if name == "attention_8":
            return Attention(width, self.labels)
        scope = "speaker" if name == "memory_speaker" else "conversation"
        model = Memory(width, self.labels, scope=scope, voice_shrinkage=shrinkage)
        if self._layer is None:
            fit_voice_layer(model.layer, *self._fitted)
            self._layer = model.layer.state_dict()
        model.layer.load_state_dict(self._layer)
        if name == "oracle":
            return Oracle(width, self.labels, shrinkage=shrinkage, layer=model.layer)
        return model

    def train(
        self, name: str, *, seed: Sequence[int], penalty: float, as_in_dialogues: bool = False, **options: float
    ) -> Utterance:
        """A trained model: that of utterances on each utterance once, the others on the dialogues of the script.

        What history adds is known before the readout is, so that a logistic regression fits the readout; only what
        attends is trained by gradients.

        Args:
            name: of `TRAINED`.
            seed: of what is drawn in training; it matters for the attention only.
            penalty: inverse weight of the readout's L2 penalty, for as many turns as there are utterances that are
                no copies.
            as_in_dialogues: the model of utterances is trained on each as often as the dialogues have it.
            options: of `make`.
        """
        rng = np.random.default_rng(seed)
        torch.manual_seed(int(rng.integers(2**31)))
        model = self.make(name, **options)
        if isinstance(model, Attention):
            self._attend(model, rng)
        turns, emotions = self._training_turns(name, model, {"as_in_dialogues": as_in_dialogues, **options})
        strength = penalty * self._weight / len(turns)
        fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=200, tol=1e-3).fit(turns, emotions)
        weight, bias = weights_by_label(fitted, self.labels)
        with torch.no_grad():
            model.readout.weight.copy_(torch.from_numpy(weight))
            model.readout.bias.copy_(torch.from_numpy(bias))
        return model.eval()

    def with_network(
        self, name: str, model: Utterance, options: Mapping[str, float], *, seed: Sequence[int]
    ) -> Utterance:
        """A copy of a trained model with a network beside its linear readout.

        Args:
            name, model, options: of `train`.
            seed: of the network.
        """
        turns, emotions = self._training_turns(name, model, options)
        stronger = copy.deepcopy(model)
        stronger.readout = AveragedReadout([model.readout, fit_network(turns, emotions, self.labels, seed=seed)])
        return stronger.eval()

    def _training_turns(
        self, name: str, model: Utterance, options: Mapping[str, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(turns, width) and (turns,): the turns and emotions that a readout is fitted to."""
        if name == "utterance" and not options.get("as_in_dialogues"):
            return self._fitted[0].numpy(), self._fitted[2]
        if isinstance(model, Attention):  # each one attends differently
            return self._turns_of(model)
        key = (name, options.get("shrinkage"))
        if key not in self._turns:
            self._turns[key] = self._turns_of(model)
        return self._turns[key]

    def _turns_of(self, model: Utterance) -> tuple[np.ndarray, np.ndarray]:
        """(turns, width) and (turns,): the turns of the training dialogues as a model has them, and their emotions."""
        # A few dialogues at a time, whose states fit into the processor's cache.
        starts = range(0, len(self._dialogues), BATCH)
        batches = [Batch.of(self._dialogues[start : start + BATCH], self.hidden, self._emotions) for start in starts]
        with torch.no_grad():
            turns = torch.cat([model.eval().turns(batch)[batch.mask] for batch in batches])
        emotions = torch.cat([self._emotions[batch.utterances[batch.mask]] for batch in batches])
        return turns.numpy(), emotions.numpy()

    @torch.no_grad()
    def try_options(self, test: TestDialogues, *, seed: Sequence[int]) -> Iterator[tuple[tuple, Tensor]]:
        """Every option of every model, as (name, (option, value), ...), and its logits.

        Transitions are decoded from the model of utterances, whose options follow theirs.
        """
        transitions = self.scripts.transitions(self.labels)
        for penalty in PENALTIES:
            option = ("penalty", penalty)
            # With random emotions, dialogues have all utterances equally often.
            for as_in_dialogues in (False, True) if self.scripts.train else (False,):
                model = self.train("utterance", penalty=penalty, as_in_dialogues=as_in_dialogues, seed=seed)
                of_utterances, logits = (option, ("as_in_dialogues", as_in_dialogues)), model(test.batch)
                yield ("utterance", *of_utterances), logits
                for weight in WEIGHTS:
                    decoded = decode_transitions(logits, test.batch.mask, transitions, weight=weight)
                    yield ("transitions", ("weight", weight), *of_utterances), decoded
            for shrinkage, name in product(SHRINKAGES, WITH_SHRINKAGE):
                model = self.train(name, penalty=penalty, shrinkage=shrinkage, seed=seed)
                yield (name, option, ("shrinkage", shrinkage)), model(test.batch)

    def _attend(self, model: Attention, rng: np.random.Generator) -> None:
        """Train what a model attends to, and a readout along."""
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
        drop = torch.nn.Dropout(0.5)
        for _ in range(STEPS):
            chosen = [self._dialogues[index] for index in rng.integers(len(self._dialogues), size=BATCH)]
            batch = Batch.of(chosen, self.hidden, self._emotions)
            logits = model.readout(drop(model.turns(batch)))[batch.mask]
            loss = F.cross_entropy(logits, self._emotions[batch.utterances[batch.mask]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def choose(
    corpus: Corpus, train: Sequence[int], folds: Sequence[Sequence[int]], labels: int, scripts: Scripts,
    *, seed: Sequence[int],
) -> dict[str, dict]:  # fmt: skip
    """Penalty, shrinkage and other options of each model with the best recall on training speakers left out in turn.

    Args:
        corpus, train: whose speakers are trained on.
        folds: groups of speakers; each that is a part of `train` is left out once. If there is none, nothing can be
            chosen, and the first of each option is taken.
        labels, scripts, seed: as `Part` takes them; dialogues of validation are composed after the training scripts.
    """
    groups = [fold for fold in folds if set(fold) < set(train)]
    if not groups:
        print(
            f"Options are not selected, since {len(train)} training speakers are too few; the first value of each is "
            "used."
        )
        penalty, shrinkage = {"penalty": PENALTIES[0]}, {"shrinkage": SHRINKAGES[0]}
        by_name = {name: penalty if name in ("utterance", "attention_8") else penalty | shrinkage for name in TRAINED}
        return {**by_name, "transitions": {"weight": WEIGHTS[0]}}
    recalls: dict[tuple, list[float]] = {}
    for number, left_out in enumerate(groups):
        rest = [speaker for speaker in train if speaker not in left_out]
        part = Part(corpus, rest, labels, scripts, seed=(*seed, number))
        test = TestDialogues(corpus, left_out, scripts.train, part.hidden, seed=(*seed, number, 2), count=100)
        for option, logits in part.try_options(test, seed=seed):
            recalls.setdefault(option, []).append(float(average_recall(test.is_right(logits), test.emotions)[0]))
    return best_options({option: float(np.mean(found)) for option, found in recalls.items()})


def best_options(means: Mapping[tuple, float]) -> dict[str, dict]:
    """The options of each model with the best mean recall.

    The weight of the transitions is the best one for the chosen model of utterances, which they decode.

    Args:
        means: by option, as `Part.try_options` names them.
    """
    utterance = dict(_best(means, "utterance"))
    weight, *_ = _best({o: mean for o, mean in means.items() if dict(o[2:]) == utterance}, "transitions")
    chosen = {name: dict(_best(means, name)) for name in WITH_SHRINKAGE}
    others = {"transitions": dict([weight]), "attention_8": {"penalty": utterance["penalty"]}}
    return {"utterance": utterance, **chosen, **others}


def _best(means: Mapping[tuple, float], name: str) -> tuple:
    """The options of a model with the best mean recall, as (option, value) pairs."""
    return max((option for option in means if option[0] == name), key=lambda option: means[option])[1:]


@torch.no_grad()
def score_models(part: Part, test: TestDialogues, chosen: Mapping[str, dict], *, seed: Sequence[int]) -> dict:
    """Train all models once; for each which scored turns it has right, (scored turns,) bool."""
    right: dict[str, np.ndarray] = {}
    decode = partial(
        decode_transitions,
        mask=test.batch.mask,
        transitions=part.scripts.transitions(part.labels),
        **chosen["transitions"],
    )
    for name in TRAINED:
        with torch.enable_grad():
            model = part.train(name, seed=seed, **chosen[name])
        logits = model(test.batch)
        right[name] = test.is_right(logits)
        if name == "utterance":
            right["transitions"] = test.is_right(decode(logits))
            right["network"] = test.is_right(part.with_network(name, model, chosen[name], seed=seed)(test.batch))
        if name == "memory":
            stronger = part.with_network(name, model, chosen[name], seed=seed)
            for key, readout in (("memory", model), ("memory_network", stronger)):
                own = readout(test.batch)
                right[key] = test.is_right(own)
                right[f"{key}_reset"] = test.is_right(readout.without_history(test.batch))
                right[f"{key}_other"] = test.is_right(test.with_other_history(readout, own))
            right["memory_transitions"] = test.is_right(decode(logits))
            other, of_partner = test.with_other_history(model, logits), test.of_partners(model, logits)
            right["memory_transitions_other"] = test.is_right(decode(other, history=of_partner))
    return right
