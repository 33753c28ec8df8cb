import pytest

from titans_mal.training.checkpoints import (
    DIGESTS_FILE,
    find_damage,
    keep_latest,
    last_good_checkpoint,
    seal_checkpoint,
    set_aside_broken,
)


@pytest.fixture
def training(tmp_path):
    """A training with two whole checkpoints, of steps 9 and 10."""
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "lanes").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights" * 100)
        (folder / "lanes" / "state").write_bytes(b"state")
        seal_checkpoint(folder)
    return tmp_path


def test_the_latest_complete_checkpoint_is_used(training):
    assert last_good_checkpoint(training) == str(training / "checkpoint-10")


@pytest.mark.parametrize("best", ["out/checkpoint-9", "/before/it/was/moved/checkpoint-9", "checkpoint-9"])
def test_the_best_checkpoint_is_kept_however_its_folder_is_named(training, best):
    """A resumed training may name its folder in another way than the one that recorded the best checkpoint."""
    keep_latest(training, 1, best=best)
    assert sorted(path.name for path in training.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    keep_latest(training, 1)
    assert sorted(path.name for path in training.iterdir()) == ["checkpoint-10"]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (
            lambda c: (c / "model.safetensors").write_bytes(b"weights" * 99),
            "model.safetensors does not match its digest",
        ),
        (lambda c: (c / "lanes" / "state").unlink(), "lanes/state is missing"),
        (lambda c: (c / DIGESTS_FILE).unlink(), "is missing or broken"),
        (lambda c: (c / DIGESTS_FILE).write_text('{"model'), "is missing or broken"),
        (lambda c: (c / DIGESTS_FILE).write_text("[" * 100_000), "is missing or broken"),
        (lambda c: (c / DIGESTS_FILE).write_bytes(b"\xff\xfe"), "is missing or broken"),
        *(
            (lambda c, text=text: (c / DIGESTS_FILE).write_text(text), "lists no files")
            for text in ("{}", "[]", "null")
        ),
        (lambda c: (c / DIGESTS_FILE).write_text('{"model.safetensors": null}'), "does not match its digest"),
        (lambda c: (c / DIGESTS_FILE).write_text('{"\\u0000": "x"}'), "is missing"),
    ],
)
def test_a_corrupted_checkpoint_is_skipped(training, harm, reason, caplog):
    harm(training / "checkpoint-10")
    assert reason in find_damage(training / "checkpoint-10")
    assert last_good_checkpoint(training) == str(training / "checkpoint-9")


def test_one_bit_is_enough(training):
    path = training / "checkpoint-10" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    assert last_good_checkpoint(training) == str(training / "checkpoint-9")


def test_there_may_be_no_checkpoint(tmp_path):
    assert last_good_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "checkpoint-3").mkdir()
    assert last_good_checkpoint(tmp_path) is None


@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_was_interrupted_is_set_aside_each_time(training, times):
    """Also where a training is interrupted at the same step again and again."""
    for _ in range(times):
        folder = training / "checkpoint-11"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        assert last_good_checkpoint(training) == str(training / "checkpoint-10")
        set_aside_broken(training, after=training / "checkpoint-10")
        assert not folder.exists()
    assert len(list(training.glob("checkpoint-11-broken*/model.safetensors"))) == times
    assert last_good_checkpoint(training) == str(training / "checkpoint-10")
