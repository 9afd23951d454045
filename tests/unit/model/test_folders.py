"""A name that is no folder, or a folder that is no model: what is said of it before a hub is asked."""

import pytest

from tests import tiny
from yangtuo.data.readers.search import find_files
from yangtuo.errors import AdapterError, DataError, ModelError, UsageError
from yangtuo.inference import places
from yangtuo.model.adapter_folder import check_adapter
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


def test_so_are_an_adapter_and_data_of_nearly_the_same_name(tmp_path):
    (tmp_path / "my_run").mkdir()
    (tmp_path / "data.json").write_text("[]")
    with pytest.raises(AdapterError, match=f"did you mean '{tmp_path / 'my_run'}'"):
        check_adapter(str(tmp_path / "my_rum"))
    with pytest.raises(AdapterError, match=r"did you mean .*; for a new LoRA, leave --peft_path out"):
        check_adapter(str(tmp_path / "my_rum"), is_optional=True)
    with pytest.raises(DataError, match=f"did you mean '{tmp_path / 'data.json'}'"):
        find_files(str(tmp_path / "date.json"), option="train_file", recursive=False)


def test_gguf_where_an_adapter_or_a_run_may_be_named_too(tmp_path):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(UsageError, match=r"found: model.gguf\); GGUF is for serving"):
        places.find_adapter(str(tmp_path), None)


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
