import pytest
from tiny_models import LABELS, tiny_model
from tiny_talks import write_talks

from titans_mal import load_conversations
from titans_mal.training import ConversationTrainer, ConversationTrainingArguments, choose_trained_parts


@pytest.fixture(scope="session")
def talks_folder(tmp_path_factory):
    return write_talks(tmp_path_factory.mktemp("talks"))


@pytest.fixture(scope="session")
def talks(talks_folder):
    return load_conversations(talks_folder, label_set=LABELS)


@pytest.fixture
def trainer_of(processor, talks, tmp_path):
    """Makes a trainer of one step of a tiny model; options of the arguments, and `own`, those of the trainer."""

    def trainer_of(model=None, *, own: dict | None = None, **options) -> ConversationTrainer:
        if model is None:
            model = tiny_model()
            choose_trained_parts(model)
        plain = {"window": 3, "per_device_train_batch_size": 2, "max_steps": 1, "logging_steps": 1, "use_cpu": True}
        quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        arguments = ConversationTrainingArguments(output_dir=str(tmp_path / "out"), **{**plain, **quiet, **options})
        return ConversationTrainer(model, arguments, processor=processor, train_dataset=talks["train"], **(own or {}))

    return trainer_of
