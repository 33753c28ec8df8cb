"""The dialogues of a test, and for each another dialogue whose history is none of its speakers'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from corpus import Corpus
from dialogues import FEWEST_SPEAKERS, Composer, Dialogue
from models import Batch, Memory, Utterance
from torch import Tensor
from torch.nn import functional as F


TEST_DIALOGUES, PARTNERS = 200, 1000
FIRST_SCORED = 4


class TestDialogues:
    """Dialogues of test speakers, and for each another one that shares no speaker with it.

    Args:
        corpus, speakers: whose utterances.
        scripts: of the emotions; None: random.
        hidden: (utterances, width) of the corpus.
        seed: of the dialogues, and of those that partners are chosen from.
        others: speakers of the other dialogue where the test speakers are too few for one.
        partner_seed: of the choice of the other dialogues.
        count: of dialogues.

    Attributes:
        batch: the dialogues.
        skipped: how many draws needed an utterance twice, and were drawn again.
        partners: as many turns of other speakers, for each dialogue that has a partner; None if there is none.
        partner_numbers: (dialogues,) int, number of the partner among the candidates, -1 without one.
        has_partner, from_training: (dialogues,) bool, whether there is a partner, and whether it is one of `others`.
        is_scored: (dialogues, turns) bool.
        utterances, emotions, speakers, dialogues: (scored turns,) int.
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
        all_emotions = torch.from_numpy(corpus.emotions)
        self.batch = Batch.of(dialogues, hidden, all_emotions)
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
        self.partners = Batch.of(cut, hidden, all_emotions) if cut else None
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
        """Choose one of the dialogues that fit at random; the first `PARTNERS` candidates are preferred.

        A monologue fits none: where the test speakers are too few for another dialogue, only monologues share no
        speaker with it.
        """
        people = [{*corpus.people[candidate.utterances]} for candidate in candidates]
        are_several = np.array([len(others) >= FEWEST_SPEAKERS for others in people])
        lengths = np.array([len(candidate) for candidate in candidates])
        numbers = []
        for dialogue in dialogues:
            own = {*corpus.people[dialogue.utterances]}
            fits = np.flatnonzero((lengths >= len(dialogue)) & are_several & [not own & others for others in people])
            preferred = fits[fits < PARTNERS] if (fits < PARTNERS).any() else fits
            numbers.append(int(rng.choice(preferred)) if len(preferred) else -1)
        self.partner_numbers = np.array(numbers)
        self.has_partner, self.from_training = self.partner_numbers >= 0, self.partner_numbers >= PARTNERS

    def is_right(self, logits: Tensor) -> np.ndarray:
        """(scored turns,) bool."""
        return logits.argmax(-1)[self.is_scored].numpy() == self.emotions

    def with_other_history(self, model: Memory, logits: Tensor) -> Tensor:
        """(dialogues, turns, labels) logits with a partner's history; those given where there is no partner."""
        if self.partners is None:
            return logits
        rows, turns = torch.from_numpy(self.has_partner), self.partners.utterances.shape[1]
        of_rows = {name: getattr(self.batch, name)[rows, :turns] for name in ("utterances", "speakers")}
        batch = replace(self.batch, **of_rows)
        return self._instead(logits, model.with_other_history(batch, self.partners))

    def of_partners(self, model: Utterance, logits: Tensor) -> Tensor:
        """(dialogues, turns, labels) logits of the partners' own turns; those given where there is no partner."""
        return logits if self.partners is None else self._instead(logits, model(self.partners))

    def _instead(self, logits: Tensor, of_some: Tensor) -> Tensor:
        """The logits, but those of the dialogues with a partner replaced; zeros behind the end of the longest."""
        rows = torch.from_numpy(np.flatnonzero(self.has_partner))
        return logits.index_put((rows,), F.pad(of_some, (0, 0, 0, logits.shape[1] - of_some.shape[1])))
