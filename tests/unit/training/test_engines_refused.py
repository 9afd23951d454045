import pytest

from yangtuo.config.parser import build_parser, parse
from yangtuo.errors import UsageError
from yangtuo.model.processor import Hardware
from yangtuo.training.engines import check_engines

GPU = Hardware("cuda", bfloat16=True, float16=True)


@pytest.mark.parametrize("engine", [["--fsdp", "True"], ["--deepspeed", '{"zero_optimization": {"stage": 3}}']])
@pytest.mark.parametrize("option", [["--torch_compile"], ["--sample_prompts", "validation", "--do_eval"]])
def test_some_things_need_whole_weights(engine, option):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (extra deepspeed)")
    words = ["--model_name_or_path", "m", "--dataset_dir", "d", "--output_dir", "o", *engine]
    check_engines(parse(words, build_parser("yangtuo train"))[0], GPU, merges=False)
    settings = parse([*words, *option], build_parser("yangtuo train"))[0]
    with pytest.raises(UsageError, match=rf"{option[0]}: .*ZeRO-3 and FSDP"):
        check_engines(settings, GPU, merges=False)
