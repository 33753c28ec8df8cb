"""Each shared module has a test file of its name; those without one say which file tests them."""

import subprocess
from pathlib import Path, PurePosixPath

import pytest


ROOT = Path(__file__).parents[1]
# Folders whose modules are tested together, by what they do.
TOGETHER = {
    "titans_mal/cli": "test_cli.py",
    "titans_mal/data/corpora": "test_corpora.py",
    "titans_mal/server": "test_app.py",
}
# Modules that are one part of something with a test file.
TESTED_BY = {
    "modeling/audio_checks.py": "test_audio_decoding.py",
    "modeling/audio_emotion_mixin.py": "test_hosts.py",
    "modeling/audio_emotion_output.py": "test_transformers_properties.py",
    "modeling/audio_headers.py": "test_audio_decoding.py",
    "modeling/audio_source.py": "test_audio_loading.py",
    "modeling/checkpoint_files.py": "test_audio_emotion_checkpoint.py",
    "modeling/checkpoint_saving.py": "test_audio_emotion_checkpoint.py",
    "modeling/deprecation.py": "test_deprecated_names.py",
    "modeling/host_types.py": "check_types.py",
    "modeling/memory_generation.py": "test_generation.py",
    "modeling/memory_placement.py": "test_audio_emotion_checkpoint.py",
    "modeling/turn_inputs.py": "test_prepare_turn.py",
    "modeling/turns_by_length.py": "test_padding_of_batches.py",
    "modeling/word_readout.py": "test_label_words.py",
    "titans_mal/_version.py": "test_wheel.py",
    "titans_mal/data/audio.py": "test_audio_loading.py",
    "titans_mal/data/emobox.py": "test_corpora.py",
    "titans_mal/data/metadata_folder.py": "test_conversations.py",
    "titans_mal/data/overview.py": "test_conversations.py",
    "titans_mal/data/segment_files.py": "test_recordings.py",
    "titans_mal/data/found_turns.py": "test_conversations.py",
    "titans_mal/evaluation/calibrate.py": "test_calibration.py",
    "titans_mal/evaluation/emotion_metrics.py": "test_numbers.py",
    "titans_mal/evaluation/listener.py": "test_deprecated_names.py",
    "titans_mal/evaluation/lora_conditions.py": "test_report_parts.py",
    "titans_mal/evaluation/markdown.py": "test_report_parts.py",
    "titans_mal/evaluation/pictures.py": "test_report_parts.py",
    "titans_mal/evaluation/protocol.py": "test_compare.py",
    "titans_mal/evaluation/report.py": "test_report_parts.py",
    "titans_mal/evaluation/report_file.py": "test_compare.py",
    "titans_mal/evaluation/report_schema.py": "test_compare.py",
    "titans_mal/evaluation/report_tables.py": "test_report_parts.py",
    "titans_mal/evaluation/report_versions.py": "test_compare.py",
    "titans_mal/evaluation/rivals.py": "test_deprecated_names.py",
    "titans_mal/evaluation/runs.py": "test_compare.py",
    "titans_mal/live/pool_worker.py": "test_pool.py",
    "titans_mal/publishing/model_card.py": "test_publish_folder.py",
    "titans_mal/publishing/publish.py": "test_publish_folder.py",
    "titans_mal/publishing/repository.py": "test_hub.py",
    "titans_mal/timeline_figure.py": "test_timeline.py",
    "titans_mal/timeline_html.py": "test_timeline.py",
    "titans_mal/training/arguments.py": "test_options.py",
    "titans_mal/training/run_options.py": "test_run.py",
    "titans_mal/training/run_report.py": "test_run.py",
    "titans_mal/training/trainer_checkpoints.py": "test_trainer.py",
    "titans_mal/training/trainer_evaluation.py": "test_trainer.py",
}


@pytest.fixture(scope="module")
def files() -> list[PurePosixPath]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not run from a clone")
    return [PurePosixPath(name) for name in listed.stdout.decode().split()]


def test_each_module_has_a_test_file(files):
    tests = {path.name for path in files if path.parts[0] == "tests"}
    modules = [path for path in files if path.parts[0] in ("modeling", "titans_mal") and path.stem != "__init__"]
    # Each host is a line of `tests/tiny_hosts.py`, which `test_hosts.py` runs.
    shared = [path for path in modules if not (path.match("modeling/modeling_*_mal.py"))]
    without = {str(path) for path in shared if f"test_{path.name}" not in tests and str(path.parent) not in TOGETHER}
    assert without == set(TESTED_BY)
    assert {*TESTED_BY.values(), *TOGETHER.values()} <= tests
