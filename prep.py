"""Exported-like folders: SmolLM2 with alpaca_zh and with its own chat template; a tiny sentencepiece llama."""
import json, shutil, sys
from pathlib import Path
from yangtuo.data.choice import choose_template
from yangtuo.data.saved_template import to_values
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.export.serving import *
base = Path("/root/.cache/yangtuo/SmolLM2-135M-Instruct")
def make(name, base, template_name):
    out = Path("/tmp/serve") / name
    shutil.rmtree(out, ignore_errors=True); out.mkdir()
    for f in base.iterdir():
        if f.suffix == ".safetensors": (out / f.name).symlink_to(f)
        elif f.is_file(): shutil.copy(f, out / f.name)
    tok = open_tokenizer(out)
    t, why = choose_template(template_name, tok, None)
    print(name, t.name, why, "bos", tok.bos_id, "eos", tok.eos_id)
    (out / "yangtuo.json").write_text(json.dumps({"template": to_values(t)}))
    (out / "chat_template.jinja").write_text(jinja_of(t, tok))
    (out / "Modelfile").write_text(modelfile_of(t, tok, "./model.gguf"))
    (out / "prompt.txt").write_text(prompt_text_of(t, tok))
    g = out / "generation_config.json"
    g.write_text(json.dumps(generation_config_of(json.loads(g.read_text()) if g.is_file() else None, tok, t)))
make("smol-alpaca", base, "alpaca_zh"); make("smol-own", base, "tokenizer")
make("spm-alpaca", Path("/tmp/w/lcp/alpaca"), "alpaca_zh")
