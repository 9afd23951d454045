"""`yangtuo check-deploy`: does a running server ask the model as training did, and answer as it does here?"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from yangtuo import logs
from yangtuo.config.schema import ModelArguments
from yangtuo.data.probe_prompts import built_in, encoded, of_file
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import RunFailure, UsageError
from yangtuo.exporting.server_check import Match, Reference, compared, notes
from yangtuo.exporting.servers import Web, connect
from yangtuo.i18n import Message, tr
from yangtuo.logs import print_json
from yangtuo.model import provenance
from yangtuo.model.provenance import PROVENANCE_FILE

_COLOURS = {"same": "green", "same number": "green", "one piece": "yellow", "differs": "bold red", "not told": "dim"}
_QUESTION_CELLS = 24  # a Chinese character takes two


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--url", required=True, help="Of the server, as http://127.0.0.1:8000.")
    parser.add_argument("--model_dir", required=True, help="Merged or exported folder that the server's model is of.")
    parser.add_argument(
        "--model",
        help="The model's name on the server: of vLLM its --served-model-name or folder, of Ollama the NAME of ollama "
        "create. Default: the only one that it has.",
    )
    parser.add_argument(
        "--kind", choices=("auto", "openai", "ollama"), default="auto", help="Protocol. Default: found out by asking."
    )
    parser.add_argument(
        "--template",
        help=f"Of the training, as --template of train. Default: as {PROVENANCE_FILE} in the folder tells, else auto.",
    )
    parser.add_argument("--prompts", help="File of rows as for training, asked beside the built-in prompts.")
    parser.add_argument(
        "--max_new_tokens",
        type=int,
        default=32,
        help="Of each answer; 0 compares prompts only and loads no weights. Default: %(default)s.",
    )
    parser.add_argument(
        "--timeout_s", type=float, default=120.0, help="Seconds to wait for an answer. Default: %(default)s."
    )
    parser.add_argument("--api_key", help="Sent as a bearer token.")
    parser.add_argument("--trust_remote_code", action="store_true", help="Run Python code that comes with the model.")
    parser.add_argument("--json", action="store_true", help="Print the comparison as JSON instead.")


def run(options: argparse.Namespace) -> None:
    """Ask the server, compare, print.

    Raises:
        UserError: server, model folder or prompts cannot be used.
        RunFailure: something differs; all of it was printed before.
    """
    if options.max_new_tokens < 0:
        raise UsageError("--max_new_tokens {max_new_tokens}: at least 0", max_new_tokens=options.max_new_tokens)
    if options.timeout_s <= 0:
        raise UsageError("--timeout_s {timeout_s}: above 0", timeout_s=options.timeout_s)
    folder = Path(options.model_dir)
    if not folder.is_dir():
        raise UsageError("--model_dir {model_dir}: no such folder", model_dir=options.model_dir)
    tokenizer = open_tokenizer(folder)
    template, why = provenance.find_template([folder], tokenizer, options.template, None)
    if options.template is not None:
        provenance.tell_other([folder], template)
    dialogues = [*built_in(), *(of_file(Path(options.prompts)) if options.prompts else ())]
    prompts, left_out = encoded(dialogues, tokenizer, template)
    server = connect(
        Web(options.url, timeout_s=options.timeout_s, api_key=options.api_key), options.kind, options.model
    )
    reference = None
    if options.max_new_tokens:
        model = ModelArguments(str(folder), trust_remote_code=options.trust_remote_code)
        reference = Reference(model, tokenizer, template, options.max_new_tokens)
    rows = [
        compared(prompt, server.ask(prompt.messages, options.max_new_tokens), tokenizer, reference)
        for prompt in prompts
    ]
    told = list(notes(server, template, tokenizer, rows, left_out))
    differing = [row for row in rows if Match.DIFFERS in (row.prompt, row.answer)]
    report = {
        "url": options.url,
        "kind": server.kind,
        "model": server.model,
        "model_dir": str(folder),
        "template": Message("{template} ({why})", template=template.name, why=why),
        "reference": reference.about if reference else None,
        "prompts": [asdict(row) for row in rows],
        "notes": told,
        "equal": not differing and any((row.prompt, row.answer) != (Match.NOT_TOLD,) * 2 for row in rows),
    }
    if options.json:
        print_json(report)
    else:
        _show(report)
    if all(row.prompt is Match.NOT_TOLD and row.answer is Match.NOT_TOLD for row in rows):
        raise UsageError("nothing was compared: the server tells nothing of its prompts, and no answers were asked for")
    if differing:
        raise RunFailure(
            "the server differs from training in {num_differing} of {num_rows} prompts ({asked} are asked otherwise, "
            "{answered} are answered otherwise)",
            num_differing=len(differing),
            num_rows=len(rows),
            asked=sum(row.prompt is Match.DIFFERS for row in rows),
            answered=sum(row.answer is Match.DIFFERS for row in rows),
        )


def _show(report: dict[str, Any]) -> None:
    console = logs.console()
    told = report["reference"] or tr("none, prompts only")
    console.print(Text(tr("{model} at {url} ({kind})").format(**report), "bold"))
    line = tr("template: {template}; reference: {reference}")
    console.print(Text(line.format(template=tr(report["template"]), reference=told), "dim"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in (tr("turns"), tr("last question"), tr("prompt"), tr("answer")):
        table.add_column(name, no_wrap=True)
    table.add_column("", overflow="fold")
    for row in report["prompts"]:
        details = "; ".join(tr(part) for part in (row["prompt_detail"], row["answer_detail"]) if part)
        table.add_row(
            "".join(message["role"][0] for message in row["messages"]),
            _short(row["messages"][-1]["content"]),
            Text(tr(row["prompt"]), _COLOURS[row["prompt"]]),
            Text(tr(row["answer"]), _COLOURS[row["answer"]]),
            Text(details, "dim"),
        )
    console.print(table)
    for note in report["notes"]:
        console.print(Text.assemble(("! ", "bold yellow"), tr(note)))
    word, colour = (tr("equal"), "bold green") if report["equal"] else (tr("differs"), "bold red")
    console.print(Text.assemble(tr("verdict: "), (word, colour)))


def _short(text: str) -> Text:
    shown = Text(" ".join(text.split()))
    shown.truncate(_QUESTION_CELLS, overflow="ellipsis")
    return shown
