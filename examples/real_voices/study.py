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
from models import Attention, Batch, Memory, RunningMean, Utterance, decode_transitions
from networks import AveragedReadout, fit_network
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from titans_mal.training.voices import fit_voice_layer


TRAINING_DIALOGUES, TEST_DIALOGUES, PARTNERS = 3200, 200, 1000
BATCH, STEPS, LEARNING_RATE = 48, 300, 2e-3
FIRST_SCORED = 4
# Fewer where there are fewer training speakers.
MOST_KEY_DIM = 12
PENALTIES, SHRINKAGES, WEIGHTS = (0.01, 0.03), (1.0, 2.0), (0.25, 0.5, 1.0)
TRAINED = ("utterance", "running_mean", "memory", "memory_speaker", "attention_8")


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
        key_dim = min(MOST_KEY_DIM, len(set(self._fitted[1])) - 1)
        model = Memory(width, self.labels, scope=scope, voice_shrinkage=shrinkage, voice_key_dim=key_dim)
        if self._layer is None:
            fit_voice_layer(model.layer, *self._fitted)
            self._layer = model.layer.state_dict()
        model.layer.load_state_dict(self._layer)
        return model

    def train(
        self, name: str, *, seed: Sequence[int], penalty: float, as_in_dialogues: bool = False, **options: float
    ) -> Utterance:
        """A trained model: that of utterances on each utterance once, the others on the dialogues of the script.

        What history adds is known before the readout is, so that a logistic regression fits the readout; only what
        attends is trained by gradients.

        Args:
            penalty: inverse weight of the readout's L2 penalty, for as many turns as there are utterances that are
                no copies.
            as_in_dialogues: the model of utterances is trained on each as often as the dialogues have it.
            options: of `make`.
        """
        model = self.make(name, **options)
        if isinstance(model, Attention):
            self._attend(model, np.random.default_rng(seed))
        turns, emotions = self._fitted_to(name, model, as_in_dialogues, options)
        strength = penalty * self._weight / len(turns)
        fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=200, tol=1e-3).fit(turns, emotions)
        with torch.no_grad():
            model.readout.weight.copy_(torch.from_numpy(fitted.coef_))
            model.readout.bias.copy_(torch.from_numpy(fitted.intercept_))
        return model.eval()

    def with_network(
        self, name: str, model: Utterance, *, seed: Sequence[int], as_in_dialogues: bool = False, **options: float
    ) -> Utterance:
        """The trained model with a network beside its linear readout; arguments as `train` takes them."""
        options.pop("penalty")
        network = fit_network(*self._fitted_to(name, model, as_in_dialogues, options), seed=seed)
        stronger = copy.copy(model)
        stronger._modules = {**model._modules, "readout": AveragedReadout([model.readout, network])}
        return stronger

    def _fitted_to(
        self, name: str, model: Utterance, as_in_dialogues: bool, options: Mapping[str, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(turns, width) and (turns,): the turns and emotions that a readout is fitted to."""
        if name == "utterance" and not as_in_dialogues:
            return self._fitted[0].numpy(), self._fitted[2]
        if isinstance(model, Attention):
            return self._turns_of(model)
        key = (name, *options.items())
        if key not in self._turns:
            self._turns[key] = self._turns_of(model)
        return self._turns[key]

    def _turns_of(self, model: Utterance) -> tuple[np.ndarray, np.ndarray]:
        """(turns, width) and (turns,): what the readout is fitted to."""
        # A few dialogues at a time, whose states fit into the processor's cache.
        starts = range(0, len(self._dialogues), BATCH)
        batches = [Batch.of(self._dialogues[start : start + BATCH], self.hidden) for start in starts]
        with torch.no_grad():
            turns = torch.cat([model.eval().turns(batch)[batch.mask] for batch in batches])
        emotions = torch.cat([self._emotions[batch.utterances[batch.mask]] for batch in batches])
        return turns.numpy(), emotions.numpy()

    @torch.no_grad()
    def try_options(self, test: TestDialogues, *, seed: Sequence[int]) -> Iterator[tuple[tuple, Tensor]]:
        """Every option of every model, as (name, (option, value), ...), and its logits.

        Transitions are decoded from the model of utterances, whose options follow theirs.
        """
        for penalty in PENALTIES:
            option = ("penalty", penalty)
            # With random emotions, dialogues have all utterances equally often.
            for as_in_dialogues in (False, True) if self.scripts.train else (False,):
                model = self.train("utterance", penalty=penalty, as_in_dialogues=as_in_dialogues, seed=seed)
                of_utterances, logits = (option, ("as_in_dialogues", as_in_dialogues)), model(test.batch)
                yield ("utterance", *of_utterances), logits
                for weight in WEIGHTS:
                    transitions = self.scripts.transitions(self.labels)
                    decoded = decode_transitions(logits, test.batch.mask, transitions, weight=weight)
                    yield ("transitions", ("weight", weight), *of_utterances), decoded
            for shrinkage, name in product(SHRINKAGES, ("running_mean", "memory", "memory_speaker")):
                model = self.train(name, penalty=penalty, shrinkage=shrinkage, seed=seed)
                yield (name, option, ("shrinkage", shrinkage)), model(test.batch)

    def _attend(self, model: Attention, rng: np.random.Generator) -> None:
        """Train what a model attends to, and a readout along."""
        torch.manual_seed(int(rng.integers(2**31)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
        drop = torch.nn.Dropout(0.5)
        for _ in range(STEPS):
            chosen = [self._dialogues[index] for index in rng.integers(len(self._dialogues), size=BATCH)]
            batch = Batch.of(chosen, self.hidden)
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
    """Penalty, shrinkages and weight of the transitions with the best recall on training speakers left out in turn.

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
    best = lambda options: max(options, key=lambda option: np.mean(recalls[option]))  # noqa: E731
    of_name = {name: [option for option in recalls if option[0] == name] for name, *_ in recalls}
    chosen = {name: dict(best(options)[1:]) for name, options in of_name.items()}
    _, weight, *_ = best([o for o in of_name["transitions"] if dict(o[2:]) == chosen["utterance"]])
    return {**chosen, "transitions": dict([weight]), "attention_8": {"penalty": chosen["utterance"]["penalty"]}}


class TestDialogues:
    """Dialogues of test speakers, and for each another one that shares no speaker with it.

    Args:
        corpus, speakers: whose utterances.
        others: speakers of the other dialogue where the test speakers are too few for one.
        partner_seed: of the choice of the other dialogues.
        scripts: of the emotions; None: random.
        hidden: (utterances, width) of the corpus.
        seed: of what is drawn.
        count: of dialogues.

    Attributes:
        batch: the dialogues.
        skipped: how many sequences needed an utterance twice and were left out.
        partners: as many turns at least of other speakers for each; where there is none, `has_partner` is False.
        partner_numbers: (dialogues,) int, which dialogue was chosen, -1 without a partner.
        from_training: (dialogues,) bool, whether it is one of `others`.
        utterances, emotions, dialogues: (scored turns,) int.
    """

    def __init__(
        self,
        corpus: Corpus,
        speakers: Sequence[int],
        scripts: Sequence[Sequence[tuple[int, int]]] | None,
        hidden: Tensor,
        *,
        seed: Sequence[int],
        others: Sequence[int] = (),
        partner_seed: Sequence[int] = (0,),
        count: int = TEST_DIALOGUES,
    ):
        is_original = np.arange(len(corpus.speakers)) < corpus.originals
        originals = np.where(is_original, corpus.speakers, -1)
        composer = Composer(originals, corpus.emotions, speakers, seed=seed)
        dialogues, self.skipped = composer.draw(scripts, count)
        dialogues = sorted(dialogues, key=len, reverse=True)
        self.batch = Batch.of(dialogues, hidden)
        candidates, _ = composer.draw(scripts, PARTNERS)
        if others:
            composer = Composer(originals, corpus.emotions, others, seed=(*seed, 1))
            candidates += composer.draw(scripts, PARTNERS)[0]
        self._choose_partners(dialogues, candidates, corpus, np.random.default_rng((*seed, 2, *partner_seed)))
        cut = [
            Dialogue(*(numbers[: len(dialogue)] for numbers in (candidates[n].utterances, candidates[n].speakers)))
            for n, dialogue in zip(self.partner_numbers, dialogues)
            if n >= 0
        ]
        self.partners = Batch.of(cut, hidden) if cut else None
        scored = self.batch.mask.clone()
        scored[:, :FIRST_SCORED] = False
        self.is_scored = scored
        self.utterances = self.batch.utterances[scored].numpy()
        self.emotions = corpus.emotions[self.utterances]
        self.speakers = corpus.speakers[self.utterances]
        self.dialogues = scored.nonzero()[:, 0].numpy()

    def _choose_partners(
        self, dialogues: Sequence[Dialogue], candidates: Sequence[Dialogue], corpus: Corpus, rng: np.random.Generator
    ) -> None:
        """Choose one of the dialogues that fit at random; the first `PARTNERS` candidates are preferred."""
        people = [{*corpus.people[candidate.utterances]} for candidate in candidates]
        lengths = np.array([len(candidate) for candidate in candidates])
        numbers = []
        for dialogue in dialogues:
            own = {*corpus.people[dialogue.utterances]}
            fits = np.flatnonzero((lengths >= len(dialogue)) & [not own & others for others in people])
            preferred = fits[fits < PARTNERS] if (fits < PARTNERS).any() else fits
            numbers.append(int(rng.choice(preferred)) if len(preferred) else -1)
        self.partner_numbers = np.array(numbers)
        self.has_partner, self.from_training = self.partner_numbers >= 0, self.partner_numbers >= PARTNERS

    def is_right(self, logits: Tensor) -> np.ndarray:
        """(scored turns,) bool."""
        return logits.argmax(-1)[self.is_scored].numpy() == self.emotions


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
            right["network"] = test.is_right(part.with_network(name, model, seed=seed, **chosen[name])(test.batch))
        if name == "memory":
            stronger = part.with_network(name, model, seed=seed, **chosen[name])
            logits_of_network = stronger(test.batch)
            right["memory_network"] = test.is_right(logits_of_network)
            right["memory_network_reset"] = test.is_right(stronger.without_history(test.batch))
            right["memory_network_other"] = test.is_right(_other_history(stronger, test, logits_of_network)[0])
            right["memory_reset"] = test.is_right(model.without_history(test.batch))
            right["memory_transitions"] = test.is_right(decode(logits))
            other, of_partner = _other_history(model, test, logits)
            right["memory_other"] = test.is_right(other)
            right["memory_transitions_other"] = test.is_right(decode(other, history=of_partner))
    return right


def _other_history(model: Memory, test: TestDialogues, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits with a partner's history, and those of the partner's turns.

    A dialogue without a partner keeps those of its own history, and of its own turns.
    """
    if test.partners is None:
        return logits, logits
    rows, batch = torch.from_numpy(test.has_partner), test.batch
    some = Batch(batch.utterances[rows], batch.speakers[rows], batch.hidden)
    with_other = logits.index_put((rows.nonzero()[:, 0],), model.with_other_history(some, test.partners))
    return with_other, logits.index_put((rows.nonzero()[:, 0],), _padded(model(test.partners), logits.shape[1]))


def _padded(logits: Tensor, turns: int) -> Tensor:
    """(dialogues, turns, labels), with zeros behind the turns of the longest dialogue."""
    return F.pad(logits, (0, 0, 0, turns - logits.shape[1]))
