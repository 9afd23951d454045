"""The scripts as a user starts them, and the seed page's own command line."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.command import REPOSITORY, evaluations_of, log_of, run, yangtuo
from yangtuo.data import cache_build

SCRIPTS = REPOSITORY / "scripts"
ENGLISH = {"YANGTUO_LANG": "en"}  # whatever the locale is; Chinese is in test_scripts_in_two_languages.py
TARGETS = "q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj"


def seed_page_command(inputs, out, *, modules_to_save=True, peft_path=None, launcher=("torchrun",)) -> list:
    """The command of the wiki page, flag by flag; only paths are filled in, and 100 steps are 10."""
    return [
        *(*launcher, "--nnodes", 1, "--nproc_per_node", 1, SCRIPTS / "run_clm_sft_with_peft.py"),
        *("--model_name_or_path", inputs.base, "--tokenizer_name_or_path", inputs.base),
        *("--dataset_dir", inputs.data, "--validation_split_percentage", "0.001"),
        *("--per_device_train_batch_size", 1, "--per_device_eval_batch_size", 1, "--do_train", "--do_eval"),
        *("--seed", 4711, "--fp16", "--max_steps", 10, "--lr_scheduler_type", "cosine", "--learning_rate", "1e-4"),
        *("--warmup_ratio", "0.03", "--weight_decay", 0, "--logging_strategy", "steps", "--logging_steps", 10),
        *("--save_strategy", "steps", "--save_total_limit", 3, "--evaluation_strategy", "steps", "--eval_steps", 250),
        *("--save_steps", 500, "--gradient_accumulation_steps", 1, "--preprocessing_num_workers", 8),
        *("--max_seq_length", 512, "--output_dir", out, "--overwrite_output_dir", "--ddp_timeout", 30000),
        *("--logging_first_step", "True", "--lora_rank", 8, "--lora_alpha", 32, "--trainable", TARGETS),
        *(("--modules_to_save", "embed_tokens,lm_head") if modules_to_save else ()),
        *("--lora_dropout", 0.05, "--torch_dtype", "float16", "--validation_file", inputs.validation),
        *(("--peft_path", peft_path) if peft_path else ()),
        *("--gradient_checkpointing", "--ddp_find_unused_parameters", "False"),
    ]


def assert_trained(inputs, out):
    assert len(log_of(out)) == 10
    assert len(evaluations_of(out)) == 1
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(inputs.base), out / "sft_lora_model")
    assert torch.isfinite(tuned(torch.arange(3, 40)[None]).logits).all()


def options_of(command) -> list:
    """What the script is given, without its launcher."""
    return command[command.index(SCRIPTS / "run_clm_sft_with_peft.py") + 1 :]


@pytest.mark.parametrize("modules_to_save", [True, False])
def test_seed_page_command_line_new_and_continued(modules_to_save, inputs, tmp_path):
    """Once by torchrun itself; what a launcher has to do with does not depend on the options."""
    new = seed_page_command(inputs, tmp_path / "first", modules_to_save=modules_to_save)
    first = run(new) if modules_to_save else yangtuo("train", *options_of(new))
    assert first.code == 0, first.said
    assert_trained(inputs, tmp_path / "first")
    adapter = tmp_path / "first" / "sft_lora_model"
    again = seed_page_command(inputs, tmp_path / "second", modules_to_save=modules_to_save, peft_path=adapter)
    second = yangtuo("train", *options_of(again))
    assert second.code == 0, second.said
    assert_trained(inputs, tmp_path / "second")


def test_our_launcher_ends_with_the_code_and_the_message_of_the_process(inputs, tmp_path):
    launcher = (sys.executable, "-m", "yangtuo.cli.torchrun")
    done = run(seed_page_command(inputs, tmp_path / "out", peft_path=tmp_path / "nowhere", launcher=launcher))
    assert done.code == 2
    assert f"--peft_path {tmp_path}/nowhere: no such folder" in done.err
    assert "Traceback" not in done.said


def test_our_launcher_passes_success_on(tmp_path):
    (tmp_path / "fine.py").write_text("import os; assert os.environ['WORLD_SIZE'] == '2'")
    words = [sys.executable, "-m", "yangtuo.cli.torchrun", "--standalone", "--nproc_per_node", 2, tmp_path / "fine.py"]
    assert run(words).code == 0


@pytest.fixture
def environment():
    """`run_sft.sh` with the environment that `setup.sh` made for these tests."""
    if not (Path(sys.prefix) / ".yangtuo-setup").is_file():
        pytest.skip("these tests do not run in an environment made by scripts/setup.sh; bash scripts/test.sh does")
    return {"YANGTUO_VENV": sys.prefix}


def test_run_sft_with_values_from_the_environment(environment, inputs, tmp_path):
    values = {
        "pretrained_model": str(inputs.base),
        "dataset_dir": str(inputs.data),
        "output_dir": str(tmp_path / "out"),
        "training_steps": "10",
        "validation_file": str(inputs.validation),
    }
    done = run(["bash", SCRIPTS / "run_sft.sh"], env=environment | values)
    assert done.code == 0, done.said
    assert_trained(inputs, tmp_path / "out")


def command_of(environment, **values) -> tuple[list[str], list[str]]:
    """What `run_sft.sh` would start: the launcher's words, and the run's."""
    done = run(["bash", "run_sft.sh"], env=environment | values | {"dry_run": "1"}, cwd=SCRIPTS)
    assert done.code == 0, done.said
    words = done.out.splitlines()
    place = words.index(str(SCRIPTS / "run_clm_sft_with_peft.py"))
    assert words[:3] == ["python", "-m", "yangtuo.cli.torchrun"]
    return words[3:place], words[place + 1 :]


def test_run_sft_from_its_own_folder_with_optional_values_empty(environment, inputs, tmp_path):
    values = {
        "pretrained_model": str(inputs.base),
        "dataset_dir": str(inputs.data),
        "output_dir": str(tmp_path / "out"),
        "training_steps": "10",
        "modules_to_save": "",
    }
    launcher, words = command_of(environment, **values)
    assert launcher == ["--standalone", "--nnodes", "1", "--max_restarts", "0", "--nproc_per_node", "1"]
    assert not {"--modules_to_save", "--validation_file", "--peft_path", "--tokenizer_name_or_path"} & set(words)
    done = yangtuo("train", *words)
    assert done.code == 0, done.said
    assert "1 rows set aside for evaluation" in done.err
    assert "in full:" not in done.err


def test_run_sft_continues_an_adapter_with_its_values_left_empty(environment, inputs, tmp_path):
    """The README's command, on an adapter that contradicts the block's values."""
    first = inputs.options(tmp_path / "first", lora_rank=2, trainable="q_proj")
    assert yangtuo("train", *first).code == 0
    values = {
        **dict.fromkeys(("lora_rank", "lora_alpha", "lora_trainable", "modules_to_save"), ""),
        "pretrained_model": str(inputs.base),
        "peft_model": str(tmp_path / "first" / "sft_lora_model"),
        "dataset_dir": str(inputs.data),
        "output_dir": str(tmp_path / "second"),
        "training_steps": "10",
    }
    done = yangtuo("train", *command_of(environment, **values)[1])
    assert done.code == 0, done.said
    assert "adapter: rank 2" in done.err
    assert_trained(inputs, tmp_path / "second")


def test_run_sft_as_shipped_would_run_the_demo(environment):
    done = run(["bash", "run_sft.sh"], env=environment | {"dry_run": "1", "pretrained_model": ""}, cwd=SCRIPTS)
    assert (done.code, done.out.splitlines()[-4:]) == (0, ["yangtuo", "demo", "--output_dir", "output_dir"])


def test_run_sft_on_several_machines(environment):
    """Each is told its number and where all meet; that two launchers meet so is tested with them."""
    values = {"pretrained_model": "x", "num_nodes": "2", "num_gpu_per_node": "4", "master_addr": "10.0.0.1"}
    for rank in ("0", "1"):
        launcher, _ = command_of(environment, **values, node_rank=rank, master_port="29511")
        meeting = ["--nnodes", "2", "--node_rank", rank, "--master_addr", "10.0.0.1", "--master_port", "29511"]
        assert launcher == [*meeting, "--max_restarts", "0", "--nproc_per_node", "4"]
    launcher, _ = command_of(environment, **values, max_restarts="3")
    assert launcher[:6] == ["--nnodes", "2", "--rdzv_backend", "c10d", "--rdzv_endpoint", "10.0.0.1:29500"]


def test_example_file_of_options(inputs, tmp_path):
    paths = ["--model_name_or_path", inputs.base, "--dataset_dir", inputs.data, "--output_dir", tmp_path / "out"]
    done = yangtuo("train", "examples/train.yaml", *paths, "--max_steps", 10, "--validation_file", inputs.validation)
    assert done.code == 0, done.said
    assert_trained(inputs, tmp_path / "out")


@pytest.mark.parametrize(
    "start", [["-m", "yangtuo", "encode", "--out", "/dev/null"], [SCRIPTS / "run_clm_sft_with_peft.py"]]
)
def test_large_data_is_encoded_by_processes_of_their_own(start, inputs, tmp_path):
    """They import the program's main file, which must not start a run in each of them; without a launcher."""
    (tmp_path / "data").mkdir()
    rows = [
        json.dumps({"instruction": f"第{i}问", "output": "长城很长。" * 190}, ensure_ascii=False) for i in range(6000)
    ]
    (tmp_path / "data" / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    assert (tmp_path / "data" / "rows.jsonl").stat().st_size > cache_build._PARALLEL_BYTES
    changes = {"dataset_dir": tmp_path / "data", "max_steps": 1, "preprocessing_num_workers": 2}
    changes |= {"data_cache_dir": tmp_path / "encoded", "per_device_train_batch_size": 1, "truncation": "right"}
    done = run([sys.executable, *start, *inputs.options(tmp_path / "out", **changes)])
    assert done.code == 0, done.said
    assert done.said.count("6,000 of 6,000 rows") == 1


def test_run_sft_several_machines_need_a_meeting_place(environment):
    values = {"pretrained_model": "x", "num_nodes": "2", **ENGLISH}
    done = run(["bash", SCRIPTS / "run_sft.sh"], env=environment | values)
    assert done.code == 2
    assert "num_nodes=2 needs master_addr" in done.err


def old_python(folder: Path) -> dict:
    """A PATH on which every Python is 3.8."""
    folder.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python"):
        (folder / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.10" && exit 0\nexit 1\n')
        (folder / name).chmod(0o755 | stat.S_IXUSR)
    found = {"PATH": f"{folder}:{os.environ['PATH']}", "VIRTUAL_ENV": "", "CONDA_PREFIX": "", "PYTHON": ""}
    return {**found, **ENGLISH}


def test_setup_says_which_python_is_needed(tmp_path):
    done = run(["bash", SCRIPTS / "setup.sh"], env={**old_python(tmp_path / "bin"), "YANGTUO_VENV": tmp_path / "venv"})
    assert done.code == 2
    assert "Python 3.11 or newer is needed; found Python 3.8.10" in done.err
    assert not (tmp_path / "venv").exists()


def test_setup_says_how_much_disk_is_needed(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "df").write_text("#!/bin/sh\necho head\necho x 1 1 1048576 1% /\n")
    (tmp_path / "bin" / "df").chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "YANGTUO_VENV": tmp_path / "venv", "PYTHON": sys.executable}
    done = run(["bash", SCRIPTS / "setup.sh"], env={**env, **ENGLISH})
    assert done.code == 2
    assert "1 GiB free" in done.err
    assert "YANGTUO_VENV=/path" in done.err


# ---- scripts/test.sh


@pytest.fixture
def checks(tmp_path):
    """Run `scripts/test.sh` where python, ruff and mypy only note how they are called; returns code and calls."""
    environment, calls = tmp_path / "venv", tmp_path / "calls"
    (environment / "bin").mkdir(parents=True)
    note = f'#!/bin/sh\n[ "$1" = -c ] && exit ${{MISSING:-0}}\necho "$*" >> {calls}\n'
    code = 'case "$*" in *"pip install"*) exit $ENGINES ;; *) exit $TESTS ;; esac\n'
    programs = [("python", note + code), ("ruff", "#!/bin/sh\nexit $STYLE\n"), ("mypy", "#!/bin/sh\nexit $TYPES\n")]
    for name, text in programs:
        (environment / "bin" / name).write_text(text)
        (environment / "bin" / name).chmod(0o755)
    made = 'echo "$(cat pyproject.toml requirements.lock | cksum) $PWD"'
    stamp = subprocess.run(["bash", "-c", made], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    (environment / ".yangtuo-setup").write_text(stamp)

    def call(*words, **codes):
        calls.write_text("")
        codes = {**dict.fromkeys(("STYLE", "TYPES", "ENGINES", "TESTS"), 0), **codes}
        env = {**os.environ, "YANGTUO_VENV": str(environment), **{name: str(code) for name, code in codes.items()}}
        command = ["bash", SCRIPTS / "test.sh", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        return done.returncode, calls.read_text().splitlines()

    return call


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-m", "not demo"],
        ["-k", "docs", "-q"],  # a folder has this name too
        ["-x", "--maxfail", "2", "--deselect", "tests/docs/test_docs.py::test_both", "-p", "no:cacheprovider"],
        ["--hypothesis-seed=7", "--all-families"],
    ],
)
def test_all_tests_run_where_none_is_named(words, checks):
    assert checks(*words) == (0, [" ".join(["-m pytest tests", *words])])
    assert checks(*words, TESTS=5)[0] == 5


@pytest.mark.parametrize(("codes", "code"), [({"STYLE": 1}, 1), ({"TYPES": 2}, 2), ({"STYLE": 3, "TYPES": 2}, 3)])
def test_no_test_runs_where_style_or_types_fail(codes, code, checks):
    assert checks(**codes) == (code, [])
    assert checks("fast", **codes) == (code, [])


@pytest.mark.parametrize("codes", [{"ENGINES": 4}, {"ENGINES": 4, "TYPES": 2}])
def test_no_test_runs_where_the_engines_cannot_be_installed(codes, checks):
    code, (call,) = checks(MISSING=1, **codes)
    assert code == 4
    assert call.endswith("-r requirements-engines.lock")


def test_what_is_missing_is_installed_before_the_tests_run(checks):
    code, (engines, templates, tests) = checks(MISSING=1)
    assert (code, tests) == (0, "-m pytest tests")
    assert engines.endswith("-r requirements-engines.lock")
    assert "--no-deps trl==" in templates


def test_the_quick_ring_is_what_plain_pytest_runs(checks):
    assert checks("fast") == (0, ["-m pytest"])
    assert checks("fast", "-x") == (0, ["-m pytest -x"])


@pytest.mark.parametrize(
    "words",
    [
        ["tests/unit"],
        ["-x", "tests/unit/config/test_words.py::test_plain", "-q"],
        ["-m", "not demo", "tests/cli"],
        ["-n", "4"],
        ["-n0"],
        ["--lf"],
        ["--pdb"],
        ["--collect-only"],
    ],
)
def test_what_is_named_or_asked_for_runs_as_it_is(words, checks):
    assert checks(*words, TESTS=3) == (3, [f"-m pytest {' '.join(words)}"])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("8.9, 580.65.06\n", ""),
        ("8.9, 550.54.15\n", "+cu126 (driver 550.54.15, compute capability 8.9)"),
        ("7.0, 580.65.06\n", "+cu126 (driver 580.65.06, compute capability 7.0)"),
        ("9.0, 580.65.06\n7.0, 580.65.06\n", "+cu126 (driver 580.65.06, compute capability 7.0)"),
        (None, ""),
    ],
)
def test_the_setup_takes_a_torch_that_fits_the_gpu_and_its_driver(said, expected, tmp_path):
    if said is not None:
        fake = tmp_path / "nvidia-smi"
        fake.write_text(f"#!/bin/sh\nprintf '{said}'\n".replace("\n7", "\\n7").replace("\n'", "\\n'"))
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    text = (SCRIPTS / "setup.sh").read_text(encoding="utf-8")
    function = text[text.index("yangtuo_torch() {") : text.index("yangtuo_setup() {")]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", f"{function}\nyangtuo_torch"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected


@pytest.mark.parametrize("have_met", [True, False])
def test_processes_that_have_met_leave_before_their_librarys_threads_can_break_the_end(have_met, inputs, tmp_path):
    """Something that ends the process by SIGABRT in the interpreter's own end, as threads of gloo did now and then."""
    breaking = "import ctypes; ctypes.pythonapi.Py_AtExit(ctypes.CDLL(None).abort)"
    told = "import atexit; atexit.register(print, 'the end')"
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    meet = "import torch.distributed as d; d.init_process_group('gloo')" if have_met else "import torch"
    words = ["check", "--model_name_or_path", inputs.base, "--dataset_dir", inputs.data]
    start = f"import sys; from yangtuo.cli import program; {breaking}; {told}; {meet}; sys.argv[0] = 'x'; program()"
    done = run([sys.executable, "-c", start, *words], env=launched)
    assert "24 of 24 rows" in done.out + done.err
    assert "the end" in done.out
    assert done.code == (0 if have_met else -6)
