"""What a training recipe says, and the licences that it allows."""

import pytest

from titans_mal.training_recipe import check_licence, read_recipe


RESTRICTED = {"licences": {"ravdess": "CC BY-NC-SA 4.0", "emodb": "CC0 1.0"}}


@pytest.mark.parametrize("license", ["apache-2.0", "cc-by-4.0", None, "cc-by-sa-4.0-ncx"])
def test_a_commercial_licence_is_rejected_for_a_non_commercial_corpus(license):
    with pytest.raises(ValueError, match=r"ravdess.*CC BY-NC-SA 4\.0.*with 'nc'"):
        check_licence(RESTRICTED, license)


def test_the_licence_of_a_known_corpus_is_checked():
    """As `titans-mal train` records it."""
    with pytest.raises(ValueError, match=r"ravdess.*CC BY-NC-SA 4\.0"):
        check_licence({"dataset": "ravdess"}, "apache-2.0")
    check_licence({"dataset": "ravdess"}, "cc-by-nc-sa-4.0")
    for dataset in ("emodb", "iemocap", "crema-d", "my-talks", ["ravdess"], None):
        check_licence({"dataset": dataset}, "apache-2.0")


def test_corpora_that_the_publisher_names_are_checked_too():
    for datasets in (["ravdess"], ["emodb", "RAVDESS"]):
        with pytest.raises(ValueError, match=r"ravdess.*CC BY-NC-SA 4\.0"):
            check_licence({}, "apache-2.0", datasets)
    with pytest.raises(ValueError, match="ravdess"):
        check_licence({"dataset": "RAVDESS"}, "apache-2.0")
    check_licence({}, "apache-2.0", ["emodb", "org/own"])


def test_licences_that_cannot_be_read_are_an_error():
    for licences in ("CC BY-NC-SA 4.0", ["CC BY-NC-SA 4.0"]):
        with pytest.raises(ValueError, match="licences of a training recipe must map corpora"):
            check_licence({"licences": licences}, "apache-2.0")


def test_other_licences_are_allowed():
    check_licence(RESTRICTED, "cc-by-nc-sa-4.0")
    check_licence({"licences": {"x": "free for non-commercial research"}}, "cc-by-nc-4.0")
    check_licence({"licences": {"emodb": "CC0 1.0"}}, "apache-2.0")
    for recipe in ({}, {"licences": None}, {"licences": {}}):
        check_licence(recipe, None)


def test_a_recipe_is_a_table(tmp_path):
    assert read_recipe(tmp_path) == {}
    (tmp_path / "training_recipe.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        read_recipe(tmp_path)
