"""The README.md of a run's adapter, from what the run has written and knows."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yangtuo import output
from yangtuo.config.settings import Settings
from yangtuo.data.examples import Examples
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.engine.processes import from_rank_0
from yangtuo.errors import DataError
from yangtuo.model import model_card
from yangtuo.model.adapter_folder import CONFIG_FILE
from yangtuo.model.model_card import CardFacts, DataFile, Loading, Losses
from yangtuo.model.prompt_files import CARD, PromptFiles
from yangtuo.model.prompt_texts import prompt_text_of
from yangtuo.model.provenance import WEIGHTS_FILE
from yangtuo.training.dataset import Corpus
from yangtuo.training.load import next_commands
from yangtuo.training.verify import PROOF_FILE

logger = logging.getLogger(__name__)

RESULTS_FILE = Path("evaluation") / "results.json"  # of `yangtuo eval`, in the run's folder
_MOST_ROWS = 200  # looked at for the languages of the answers


def write(
    settings: Settings,
    corpus: Corpus,
    prompt_files: PromptFiles,
    known: Mapping[str, Any],
    saved: Path,
    *,
    writes: bool,
) -> None:
    """Write the card of an adapter that has passed its proof; called by all processes.

    One that is not of this program or of PEFT stays as it is, which is said.

    Args:
        settings: of the run.
        corpus: what was trained on.
        prompt_files: how the adapter is asked.
        known: what travels with it, see `load.provenance_of`.
        saved: its folder, in the run's.
        writes: whether this process writes to its machine's disk.

    Raises:
        WriteError: it cannot be written.
    """
    text = from_rank_0(lambda: model_card.markdown(_facts(settings, corpus, prompt_files, known, saved)))
    card = saved / CARD
    if not writes:
        return
    if card.is_file() and not model_card.is_ours(card.read_text(encoding="utf-8", errors="replace")):
        logger.warning("%s: not written by this program, so it stays as it is", card)
        return
    with output.whole_file(card) as file:
        file.write(text)


def _facts(
    settings: Settings, corpus: Corpus, prompt_files: PromptFiles, known: Mapping[str, Any], saved: Path
) -> CardFacts:
    tokenizer, run = prompt_files.tokenizer, saved.parent
    proof = json.loads((run / PROOF_FILE).read_text(encoding="utf-8"))
    num_tokens = tokenizer.num_tokens
    name = known["base"]["name"]
    place = str(Path(name).resolve()) if Path(name).is_dir() else name  # the card is read from elsewhere
    loading = Loading(
        name,
        place,
        tuple(one["folder"] for one in known["stack"]),
        num_tokens if num_tokens > known["base"]["num_rows"] else None,
        settings.model.trust_remote_code,
    )
    return CardFacts(
        name=f"{Path(loading.base).name}, tuned with LoRA",
        loading=loading,
        template=prompt_files.template.name,
        prompt=_prompt(prompt_files),
        prompt_section=prompt_files.card(),
        config=json.loads((saved / CONFIG_FILE).read_text(encoding="utf-8")),
        data=tuple(_data(corpus.audits["train"]["files"])),
        languages=model_card.languages_of(_answers(corpus.train, tokenizer)),
        num_steps=proof["num_steps"],
        losses=_losses(proof),
        versions={"yangtuo": known["yangtuo"], **known["versions"]},
        commands=tuple(next_commands(settings, {**known, "base": {**known["base"], "name": place}}, Path(saved.name))),
        verdict=verdict_of(run / RESULTS_FILE, saved / WEIGHTS_FILE),
    )


def verdict_of(results: Path, weights: Path) -> str | None:
    """The sentence of an evaluation, if there is one and it is not older than the weights."""
    try:
        if results.stat().st_mtime < weights.stat().st_mtime:
            return None
        verdict = json.loads(results.read_text(encoding="utf-8"))["verdict"]
        return str(verdict["text"]) if verdict else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or of another version
        return None


def _data(files: Sequence[Mapping[str, Any]]) -> list[DataFile]:
    return [DataFile(Path(one["path"]).name, one["rows_kept"], one["sha256"]) for one in files]


def _losses(proof: Mapping[str, Any]) -> Losses | None:
    gain, reload = proof["gain"], proof["reload"]
    return Losses(gain["at_start"], reload["reloaded"], reload["num_rows"]) if gain else None


def _prompt(prompt_files: PromptFiles) -> str | None:
    try:
        return prompt_text_of(prompt_files.template, prompt_files.tokenizer)
    except DataError:  # it needs a system prompt, and has none of its own
        return None


def _answers(examples: Examples, tokenizer: Tokenizer) -> list[str]:
    rows = (examples.row(i) for i in range(min(len(examples), _MOST_ROWS)))
    return [tokenizer.decode(ids[supervised].tolist()) for ids, supervised in rows]
