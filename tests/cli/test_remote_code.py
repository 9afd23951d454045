"""Bases whose code comes with them: trained, merged, exported and asked with --trust_remote_code, and not without."""

import json
import re
import shlex

import pytest

from tests import tiny

CODE = {
    "configuration_own.py": "from transformers import LlamaConfig\n\n\n"
    'class OwnConfig(LlamaConfig):\n    model_type = "own_llama"\n',
    "modeling_own.py": "from transformers import LlamaForCausalLM\n\n"
    "from .configuration_own import OwnConfig\n\n\n"
    "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n",
}
CONFIG = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
ONLY_MODEL = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    """Where transformers copies such code, in place of the user's own cache; Python imports from one place only."""
    import transformers.dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        place = str(tmp_path_factory.mktemp("modules"))
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", place)
        yield


@pytest.fixture
def base(tmp_path):
    folder = tiny.tiny_llama(tmp_path / "base")
    tiny.tiny_sentencepiece(folder)
    for name, text in CODE.items():
        (folder / name).write_text(text)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own_llama", "auto_map": CONFIG}))
    return folder


def test_each_verb_takes_the_option_and_names_it_without(base, train, run, tmp_path):
    told = f"error: {base}: Python code comes with this model and is not run unless --trust_remote_code is given"
    assert told in train(model_name_or_path=base, expect=2)
    said = train(model_name_or_path=base, trust_remote_code=True)
    adapter, words = tmp_path / "out" / "sft_lora_model", ["--model_name_or_path", base]
    command = shlex.split(re.search(r"to merge it: yangtuo (merge .*)", said)[1])
    assert command[-1] == "--trust_remote_code"
    out = tmp_path / "as told"
    command[command.index("--output_dir") + 1] = str(out)
    run(*command)
    assert {name: (out / name).read_text() for name in CODE} == CODE
    for verb, more in (("merge", ()), ("export", ()), ("chat", ("--ask", "你好", "--max_new_tokens", 2))):
        given = ["--peft_path", adapter, *more] + ([] if verb == "chat" else ["--output_dir", tmp_path / verb])
        assert told in run(verb, *words, *given, expect=2)
        run(verb, *words, *given, "--trust_remote_code")
    run("chat", tmp_path / "merge", "--ask", "你好", "--max_new_tokens", 2, "--trust_remote_code")
    run("export", "--model_name_or_path", tmp_path / "merge", "--output_dir", tmp_path / "copy", "--trust_remote_code")
    assert (tmp_path / "copy" / "modeling_own.py").is_file()


def test_a_base_whose_configuration_alone_is_known(base, train, run, tmp_path):
    """As InternLM3 and others of a type that transformers has: its own code is run where nothing else is asked for."""
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "llama", "auto_map": ONLY_MODEL}))
    train(model_name_or_path=base)
    words = ["--model_name_or_path", base, "--peft_path", tmp_path / "out" / "sft_lora_model"]
    run("merge", *words, "--output_dir", tmp_path / "merged")
    run("merge", *words, "--output_dir", tmp_path / "own", "--trust_remote_code")
    assert (tmp_path / "own" / "modeling_own.py").is_file()
