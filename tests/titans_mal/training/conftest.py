import pytest
from tiny_models import LABELS
from tiny_talks import write_talks

from titans_mal import load_conversations


@pytest.fixture(scope="session")
def talks_folder(tmp_path_factory):
    return write_talks(tmp_path_factory.mktemp("talks"))


@pytest.fixture(scope="session")
def talks(talks_folder):
    return load_conversations(talks_folder, label_set=LABELS)
