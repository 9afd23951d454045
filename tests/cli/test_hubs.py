"""Models by name, from stand-ins of Hugging Face and of ModelScope, in processes of their own.

huggingface_hub reads its variables when it is imported. So the processes are new ones, except where a whole `check`
goes well, which would import torch and transformers each time: those are forks of a process that has imported
everything in the very environment, and each test finds the folders that it names empty.
"""

import importlib.util
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import is_offline_mode

from tests import command, hubs

OTHER = "owner/other"
MIB = 1 << 20
LARGE = bytes(range(256)) * (24 * 4096)  # 24 MiB: huggingface_hub writes blocks of 10
FETCH = """
import sys
from pathlib import Path
from yangtuo import cli, logs
from yangtuo.config.choices import Hub
from yangtuo.model import hubs
def fetch(word, words):
    print(hubs.fetch(words[0], hubs.Source(Hub(words[1])), option="model_name_or_path", patterns=None))
cli._run = fetch
sys.exit(cli.main(["fetch", *sys.argv[1:]]))
"""
needs_client = pytest.mark.skipif(
    importlib.util.find_spec("modelscope_hub") is None, reason="modelscope-hub is not installed (extra modelscope)"
)


@pytest.fixture
def files(inputs):
    """Those of a tiny model, and one that comes in several blocks."""
    small = ("config.json", "tokenizer.model", "tokenizer_config.json")
    found = {name: (inputs.base / name).read_bytes() for name in small if (inputs.base / name).is_file()}
    return {**found, "model.safetensors": LARGE}


@dataclass
class Asked:
    """A stand-in that serves, and the program with its address."""

    hub: hubs.Hub
    word: str
    env: dict
    forker: command.Forker | None = None

    def fetch(self, name=hubs.NAME, *, word=None, code=0, **env):
        done = command.run([sys.executable, "-c", FETCH, name, word or self.word], env={**self.env, **env})
        assert done.code == code, done.said
        assert "Traceback" not in done.said
        return done

    def check(self, inputs, *words, name=hubs.NAME, code=0, **env):
        options = ["--model_name_or_path", name, "--dataset_dir", inputs.data, *words]
        is_as_imported = not any(word.startswith(("HF_", "PYTHON")) for word in env)
        if self.forker and is_as_imported and code == 0:
            done = command.forked("check", *options, env={**self.env, **env}, forker=self.forker)
        else:
            done = command.run([sys.executable, "-m", "yangtuo", "check", *options], env={**self.env, **env})
        assert done.code == code, done.said
        assert "Traceback" not in done.said
        return done


def last_line(done):
    return done.err.splitlines()[-1]


def environment(folder, **more):
    """A user's own variables of the hubs are as good as not set."""
    return {
        "HF_HUB_DISABLE_XET": "",
        "USE_MODELSCOPE_HUB": "",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(folder / "hf"),
        "MODELSCOPE_CACHE": str(folder / "modelscope"),
        "MODELSCOPE_HOME": str(folder / "modelscope-home"),
        "MODELSCOPE_DOWNLOAD_CHUNK_SIZE_MB": "1",
        "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
        "NO_PROXY": "127.0.0.1",
        **more,
    }


@dataclass
class Place:
    """Both stand-ins, the environment that names them, and a process that has imported everything in it."""

    stand_ins: dict[str, hubs.StandIn]
    folder: Path
    env: dict
    forker: command.Forker

    def serves(self, **served):
        """An empty folder, and at both addresses what is served there."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        for word, server in self.stand_ins.items():
            server.serve(served[word])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hubs")
    with hubs.standing_in("huggingface") as hugging_face, hubs.standing_in("modelscope") as modelscope:
        env = environment(folder, HF_ENDPOINT=hugging_face.address, MODELSCOPE_ENDPOINT=modelscope.address)
        forker = command.Forker(
            {**env, "HF_HUB_DISABLE_XET": "1"}
        )  # as the program sets it before it imports the client
        yield Place({"huggingface": hugging_face, "modelscope": modelscope}, folder, env, forker)
        forker.end()


@pytest.fixture(params=["huggingface", pytest.param("modelscope", marks=needs_client)])
def asked(request, place, files):
    hub, other = hubs.Hub(files), hubs.Hub(files)
    (word,) = {"huggingface", "modelscope"} - {request.param}
    place.serves(**{request.param: hub, word: other})
    yield Asked(hub, request.param, place.env, place.forker)
    assert other.seen == []


@pytest.fixture
def mirror(place, files):
    hub = hubs.Hub(files)
    place.serves(huggingface=hub, modelscope=hubs.Hub(files))
    return Asked(hub, "huggingface", dict(place.env), place.forker)


def test_all_files_of_a_model_come_as_they_are_and_only_once(asked, files):
    done = asked.fetch()
    folder = Path(done.out.strip())
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert "%" in done.err  # of a bar
    asked.hub.seen.clear()
    assert asked.fetch().out == done.out
    assert [asked.hub.ranges(name) for name in files] == [[]] * len(files)


def test_a_connection_that_breaks_is_taken_up_where_it_broke(asked):
    asked.hub.cut_at["model.safetensors"] = 15 * MIB
    folder = Path(asked.fetch().out.strip())
    first, second = asked.hub.ranges("model.safetensors")
    assert (first, second) == (None, f"bytes={(10 if asked.word == 'huggingface' else 15) * MIB}-")
    assert (folder / "model.safetensors").read_bytes() == LARGE


@needs_client
def test_modelscope_goes_on_inside_a_file_in_the_next_command(files, tmp_path):
    hub = hubs.Hub(files)
    hub.cut_at["model.safetensors"] = 15 * MIB
    with hubs.serving(hub, "modelscope") as address:
        asked = Asked(hub, "modelscope", environment(tmp_path, MODELSCOPE_ENDPOINT=address))
        said = last_line(asked.fetch(code=2, MODELSCOPE_DOWNLOAD_MAX_RETRIES="0"))
        assert f"could not be fetched from ModelScope ({address})" in said
        assert "the same command goes on with what has come" in said
        hub.seen.clear()
        folder = Path(asked.fetch().out.strip())
    assert hub.ranges("model.safetensors") == [f"bytes={15 * MIB}-"]
    assert [hub.ranges(name) for name in files if name != "model.safetensors"] == [[]] * (len(files) - 1)
    assert (folder / "model.safetensors").read_bytes() == LARGE


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_with_another_byte_than_is_listed_is_refused(asked, file):
    asked.hub.wrong = {file}
    said = last_line(asked.fetch(code=2))
    assert said.startswith(f"error: --model_name_or_path {hubs.NAME}: {file} of ")
    assert said.endswith("deleted, give the same command again")
    asked.hub.wrong = set()
    folder = Path(asked.fetch().out.strip())
    assert (folder / file).read_bytes() == asked.hub.files[file]


def test_an_unknown_name_is_one_line_that_names_the_hub(asked, inputs, sentences):
    done = asked.check(inputs, "--hub", asked.word, name=OTHER, code=2)
    address = asked.env[{"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}[asked.word]]
    said = last_line(done).replace(address, "ADDRESS")
    assert said.startswith(f"error: --model_name_or_path {OTHER}: no such folder, and ")
    sentences(said.partition("(ADDRESS)")[0] + "...; " + said.rpartition("; ")[2], OTHER)


def test_a_hub_that_does_not_answer_is_one_line_that_names_the_mirrors(asked, inputs):
    asked.hub.mute = True
    done = asked.check(inputs, "--hub", asked.word, code=2, MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS="1")
    said = last_line(done)
    assert {"huggingface": "Hugging Face (http://127", "modelscope": "ModelScope (http://127"}[asked.word] in said
    assert {"huggingface": "--hub modelscope", "modelscope": "--hub huggingface"}[asked.word] in said
    assert "HF_ENDPOINT=https://hf-mirror.com with HF_HUB_DISABLE_XET=1" in said


def test_what_was_fetched_is_taken_where_the_hub_does_not_answer_or_is_not_to_be_asked(asked, inputs):
    asked.check(inputs, "--hub", asked.word)
    asked.hub.mute = True
    done = asked.check(inputs, "--hub", asked.word, MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS="1")
    assert f"--model_name_or_path {hubs.NAME}: taken as it was fetched before, since " in done.err
    asked.hub.seen.clear()
    asked.check(inputs, "--hub", asked.word, HF_HUB_OFFLINE="1")
    assert asked.hub.seen == []
    said = last_line(asked.check(inputs, "--hub", asked.word, name=OTHER, code=2, HF_HUB_OFFLINE="1"))
    assert "is not asked, since HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set" in said
    assert "HF_ENDPOINT=https://hf-mirror.com with HF_HUB_DISABLE_XET=1" in said
    assert asked.hub.seen == []


def test_what_is_not_whole_is_not_taken(asked, inputs):
    asked.hub.wrong = {"tokenizer.model"}
    asked.check(inputs, "--hub", asked.word, code=2)
    asked.hub.mute = True
    done = asked.check(inputs, "--hub", asked.word, code=2, MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS="1")
    assert "the model could not be fetched from" in last_line(done)


@needs_client
@pytest.mark.parametrize(("words", "value"), [(["--hub", "modelscope"], ""), ([], "1"), (["--hub", "auto"], "true")])
def test_the_option_and_the_variable_of_others_mean_the_same(words, value, files, inputs, place):
    hub, other = hubs.Hub(files), hubs.Hub(files)
    place.serves(modelscope=hub, huggingface=other)
    asked = Asked(hub, "", place.env, place.forker)
    done = asked.check(inputs, *words, USE_MODELSCOPE_HUB=value)
    address = place.env["MODELSCOPE_ENDPOINT"]
    assert f"--model_name_or_path {hubs.NAME}: asked of ModelScope ({address})\n" in done.err
    assert [hub.ranges("model.safetensors"), other.seen] == [[], []]  # check loads no weights
    asked.check(inputs, "--hub", "huggingface", USE_MODELSCOPE_HUB="1")  # the option goes before the variable
    assert other.seen


def test_without_the_client_of_modelscope_the_command_that_installs_it_is_named(inputs, tmp_path, mirror):
    hidden = tmp_path / "modelscope_hub.py"
    hidden.write_text("raise ImportError\n")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    said = last_line(mirror.check(inputs, "--hub", "modelscope", code=2, PYTHONPATH=paths))
    assert "[modelscope]" in said


@pytest.mark.parametrize("word", ["huggingface", "modelscope"])
def test_a_folder_is_never_asked_of_anybody(inputs, mirror, word):
    env = {"MODELSCOPE_ENDPOINT": mirror.env["HF_ENDPOINT"], "USE_MODELSCOPE_HUB": "1"}
    mirror.check(inputs, "--hub", word, name=str(inputs.base), **env)
    said = last_line(mirror.check(inputs, "--hub", word, name=str(inputs.base) + "-other", code=2, **env))
    assert said.startswith(f"error: --model_name_or_path {inputs.base}-other: no such folder")
    assert mirror.hub.seen == []


def asks_xet(asked):
    return any("xet-read-token" in path for _, path, _ in asked.hub.seen)


@pytest.mark.skipif(importlib.util.find_spec("hf_xet") is None, reason="hf_xet is not installed")
def test_a_mirror_is_kept_to_and_who_wants_xet_all_the_same_is_told(mirror):
    done = mirror.fetch()
    assert "without Xet, which would go past the mirror (HF_HUB_DISABLE_XET=1)\n" in done.err
    assert not asks_xet(mirror)
    (mirror.env["HF_HOME"], where) = (mirror.env["HF_HOME"] + "-2", mirror.env["HF_ENDPOINT"])
    done = mirror.fetch(code=2, HF_HUB_DISABLE_XET="0")
    assert f"Hugging Face ({where})" in done.err
    assert "with Xet, files come from other hosts than the mirror" in done.err
    assert asks_xet(mirror)


@needs_client
@pytest.mark.skipif(is_offline_mode(), reason="HF_HUB_OFFLINE is set for the tests' own process")
def test_a_run_by_name_its_merge_and_its_answers(inputs, train, run, tmp_path, monkeypatch):
    everything = {path.name: path.read_bytes() for path in inputs.base.iterdir() if path.is_file()}
    with hubs.serving(hubs.Hub(everything), "modelscope") as address:
        for name, value in environment(tmp_path, MODELSCOPE_ENDPOINT=address).items():
            monkeypatch.setenv(name, value)
        said = train(model_name_or_path=hubs.NAME, hub="modelscope", max_steps=1)
        saved = tmp_path / "out" / "sft_lora_model"
        assert json.loads((saved / "yangtuo.json").read_text())["base"]["name"] == hubs.NAME
        words = f"--model_name_or_path {hubs.NAME} --peft_path {saved} --output_dir merged --hub modelscope"
        assert f"yangtuo merge {words}" in said
        run("merge", *words.replace("merged", str(tmp_path / "merged")).split())
        assert f"Base: `{hubs.NAME}`" in (tmp_path / "merged" / "README.md").read_text()
        run("chat", hubs.NAME, "--hub", "modelscope", "--ask", "你好", "--max_new_tokens", "2", "--use_cpu")
    run("chat", saved, "--ask", "你好", "--max_new_tokens", "2", "--use_cpu")  # its base is a folder by now
