"""The corpora that `load_conversations` reads, one module each; users provide their own copies."""

from .corpus import Corpus
from .crema_d import CREMA_D
from .dailytalk import DAILYTALK
from .emodb import EMODB
from .emorynlp import EMORYNLP
from .iemocap import IEMOCAP
from .m3ed import M3ED
from .meld import MELD
from .msp_improv import MSP_IMPROV
from .msp_podcast import MSP_PODCAST
from .ravdess import RAVDESS


_ALL = (IEMOCAP, MELD, M3ED, DAILYTALK, EMORYNLP, MSP_PODCAST, MSP_IMPROV, CREMA_D, RAVDESS, EMODB)
CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _ALL}

__all__ = ["CORPORA", "Corpus"]
