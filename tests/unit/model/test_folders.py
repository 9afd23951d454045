"""A name that is no folder, or a folder that is no model: what is said of it before a hub is asked."""

import pytest

from tests import tiny
from yangtuo.errors import ModelError
from yangtuo.model.folders import check_place


def said(name, option="model_name_or_path"):
    with pytest.raises(ModelError) as caught:
        check_place(str(name), option=option, must_hold=["config.json"])
    return str(caught.value)


def test_a_model_is_its_folder(tmp_path):
    base = tiny.tiny_llama(tmp_path / "base")
    assert check_place(str(base), option="model_name_or_path", must_hold=["config.json"]) == base


@pytest.mark.parametrize("name", ["owner/name", "Qwen/Qwen3-0.6B", "a/b_c.d-e"])
def test_what_a_hub_may_have_is_not_refused(name):
    assert check_place(name, option="model_name_or_path", must_hold=["config.json"]) is None


@pytest.mark.parametrize(
    "name", ["中文/模型", "模型", "a b/c", "./x", "/no/such", "~/nothing-here", "owner/名", "a/b/c", ""]
)
def test_what_no_hub_can_have_is_a_folder_that_is_missing(name):
    assert said(name or "''").startswith(f"--model_name_or_path {name or chr(39) * 2}: no such folder")


def test_a_folder_of_nearly_the_same_name_is_offered(tmp_path):
    (tmp_path / "my_run").mkdir()
    (tmp_path / "other").mkdir()
    assert said(tmp_path / "my_runn").endswith(f"no such folder; did you mean '{tmp_path / 'my_run'}'?")
    assert said(tmp_path / "something").endswith(": no such folder")


def test_gguf_is_named_as_a_file_and_in_a_folder(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "model-q4_k_m.gguf").touch()
    for name in (tmp_path / "served", tmp_path / "served" / "model-q4_k_m.gguf", "owner/model.gguf"):
        assert "GGUF is for serving" in said(name)
    (tmp_path / "empty").mkdir()
    assert said(tmp_path / "empty").endswith("no config.json in that folder (found: nothing)")


def test_an_adapter_is_no_base(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    assert "--peft_path" in said(tmp_path)
    assert "--peft_path" not in said(tmp_path, option="tokenizer_name_or_path")
