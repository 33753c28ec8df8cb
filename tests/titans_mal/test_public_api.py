import ast
import subprocess
import sys
from pathlib import Path

import pytest

import titans_mal


def test_every_public_name_is_there():
    for name in titans_mal.__all__:
        assert getattr(titans_mal, name) is not None
    assert set(titans_mal.__all__) <= set(dir(titans_mal))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        titans_mal.Nothing  # noqa: B018


def test_a_type_checker_sees_the_public_names():
    tree = ast.parse(Path(titans_mal.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.asname: f".{node.module}" for node in block.body for alias in node.names}
    assert seen == titans_mal._PUBLIC


def run(code: str, **kwargs) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_light():
    heavy = "{'torch', 'transformers', 'datasets', 'matplotlib', 'scipy', 'av'}"
    assert run(f"import sys, titans_mal; print({heavy} & set(sys.modules))").strip() == "set()"


def test_audio_and_tables_do_not_need_torch(tmp_path):
    code = "import sys; from titans_mal import load_audio; print('torch' in sys.modules)"
    assert run(code).strip() == "False"


def test_any_public_name_makes_the_hosts_known_to_transformers():
    code = """
from titans_mal import ConversationMemoryCache
from transformers import AutoConfig, AutoModelForMultimodalLM
config = AutoConfig.for_model("qwen2_audio_mal", label_token_ids=[3, 4])
print(type(config).__name__, AutoModelForMultimodalLM._model_mapping[type(config)].__name__)
"""
    assert run(code).split() == ["Qwen2AudioMALConfig", "Qwen2AudioMALForAudioEmotion"]


def test_works_from_the_root_of_a_clone(tmp_path):
    """There `titans_mal/` is found before what is installed, and `modeling/` beside it."""
    from pathlib import Path

    root = Path(titans_mal.__file__).parent.parent
    if not (root / "modeling").is_dir():
        pytest.skip("not run from a clone")
    assert run("import titans_mal.modeling.neural_memory as m; print(m.__file__)", cwd=root).strip() == str(
        root / "modeling" / "neural_memory.py"
    )
