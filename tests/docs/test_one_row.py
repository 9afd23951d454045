"""The example that walks one row to its gradient does what it prints."""

import re
import runpy
import sys

import torch
from transformers import AutoModelForCausalLM

from tests.command import REPOSITORY


def test_one_row_has_the_loss_of_plain_transformers(inputs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["one_row.py", str(inputs.base)])
    names = runpy.run_path(str(REPOSITORY / "examples" / "one_row.py"))
    out = capsys.readouterr().out
    ids, supervised = torch.tensor(names["ids"].astype("int64")), torch.tensor(names["supervised"])
    model = AutoModelForCausalLM.from_pretrained(inputs.base)
    expected = model(input_ids=ids[None], labels=ids.where(supervised, -100)[None]).loss.item()
    assert abs(names["loss"].item() - expected) < 1e-5
    assert f"loss {expected:.4f} nats a token; gradients of 8 LoRA matrices" in out
    assert "Turn(role='assistant', text='长城是中国古代的军事防御工程。', trained=True" in out
    assert re.search(r"step: rows \[0\], total weight \d+\.0; \d+ cells", out)


def test_it_stays_short():
    lines = (REPOSITORY / "examples" / "one_row.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line and not line.startswith(("from ", "import ", '"""'))]) <= 35
