"""A folder that other programs serve as training meant it; see `exporting/folder.py`."""

import logging
from dataclasses import dataclass, fields
from pathlib import Path

from yangtuo.api.arguments import Option, options_of
from yangtuo.api.merge import check_words, find
from yangtuo.api.process import as_library
from yangtuo.config.json_values import object_of
from yangtuo.errors import UsageError
from yangtuo.exporting.kinds import check_kind
from yangtuo.merging.options import MergeOptions
from yangtuo.output import new_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportOptions(MergeOptions):
    """What is exported, by the names of the command line: that of `MergeOptions`, and what is written beside.

    Attributes:
        template: name or file; None for the one that travels with adapter or model, else auto.
        system_prompt: of dialogues without one; "" for none, None for the template's.
        chat_template_kwargs: JSON; None for those of the training.
        gguf: kind of the file for llama.cpp and Ollama; None for none.
        pure_lora: whether base/ with modules_to_save inside and adapter/ with LoRA alone are written, as for vLLM.
    """

    template: str | None = None
    system_prompt: str | None = None
    chat_template_kwargs: str | None = None
    gguf: str | None = None
    pure_lora: bool = False


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        folder: all of it; with `pure_lora`, base/ and adapter/ in it.
        modelfile: for `ollama create`; None where Ollama cannot ask as training did, or with `pure_lora`.
        gguf: for llama.cpp; None where none was asked for.
    """

    folder: Path
    modelfile: Path | None
    gguf: Path | None


def export(target: Option = None, **options: Option) -> ExportResult:
    """Merge or copy, prove, and write what other programs need, as `yangtuo export` does.

    Args:
        target: folder of a run, of an adapter or of a model.
        options: `output_dir`, and the others of `ExportOptions`.

    Raises:
        UserError: something that was given cannot be used; nothing was written.
        RunFailure: writing failed, and nothing stays.
        ProofError: what was written is kept as `DIR.failed-proof`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    asked = options_of(ExportOptions, "yangtuo.export", {"model_name_or_path": "", "peft_path": "", **given})
    check_words("yangtuo.export", asked)
    found, folder = find_export(asked, None if target is None else str(target))
    with as_library():
        return run(found, folder)


def find_export(asked: ExportOptions, target: str | None) -> tuple[ExportOptions, Path]:
    """Where everything lies, once it is known that the options fit each other; loads no torch.

    Raises:
        UserError: something cannot be used.
    """
    check_kind(asked.gguf, asked.output_dir)
    if asked.pure_lora and asked.gguf:
        raise UsageError("--pure_lora: a GGUF file is of a merged model; give one of them")
    if target is None:  # else it is the folder that says whether there is an adapter
        _check_adapter_options(asked)
    named, folder = find(asked, target, needs_adapter=False)
    found = ExportOptions(**{field.name: getattr(named, field.name) for field in fields(ExportOptions)})
    _check_adapter_options(found)
    return found, folder


def _check_adapter_options(asked: ExportOptions) -> None:
    """Options that only mean something with an adapter."""
    if asked.pure_lora and not asked.peft_path:
        raise UsageError("--pure_lora: it divides an adapter; give a run, an adapter or --peft_path")
    if asked.dtype != "auto" and not asked.peft_path:
        raise UsageError("--dtype {dtype}: it is for merging an adapter, and no adapter is given", dtype=asked.dtype)


def run(asked: ExportOptions, folder: Path) -> ExportResult:
    """Merge or copy, prove, write the texts, and give the folder its name; `find_export` gives both arguments.

    Raises:
        YangtuoError: see `export`.
    """
    from yangtuo.exporting.folder import gguf_name, texts_of, write_split, write_whole
    from yangtuo.exporting.gguf import vocabulary
    from yangtuo.exporting.gguf.model import architecture
    from yangtuo.merging.job import Job, check_room, prepare
    from yangtuo.model.stored_weights import open_stored

    out = Path(asked.output_dir)
    job = prepare(asked, folder) if asked.peft_path else None
    kwargs = object_of("chat_template_kwargs", asked.chat_template_kwargs)
    texts = texts_of(job, folder, asked.template, asked.system_prompt, kwargs)
    source = job or open_stored(folder, trust_remote_code=asked.trust_remote_code)
    if asked.gguf:  # what llama.cpp does not know is refused before hours of merging
        config = source.base.config if isinstance(source, Job) else source.config
        num_rows = job.plan.chain.num_rows if job else config.get_text_config().vocab_size
        architecture(folder, config)
        vocabulary.fields(texts.prompt_files.tokenizer, num_rows)
    if job:
        check_room(job, out)
    with new_folder(out, "output_dir") as draft:
        if job and asked.pure_lora:
            write_split(job, draft, out, texts)
        else:
            write_whole(source, draft, out, texts, base_name=asked.model_name_or_path, gguf=asked.gguf)
    logger.info("exported: %s", out)
    texts.prompt_files.tell()
    modelfile, file = out / "Modelfile", gguf_name(asked.gguf)
    return ExportResult(out, modelfile if modelfile.is_file() else None, out / file if file else None)
