"""Near and far words, options given twice, look-alikes of ASCII."""

import argparse

import pytest

from yangtuo.cli import OF_A_RUN, VERBS, module_of
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.words import Parser, nearest, plain, value_meant, wide_signs
from yangtuo.data import mixing
from yangtuo.data.readers.search import find_files
from yangtuo.errors import DataError, ModelError, UsageError
from yangtuo.model.folders import local_folder
from yangtuo.model.hubs import Source

OPTIONS = ["--lora_rank", "--lora-rank", "--top_p", "--max_seq_length", "--peft_path", "--per_device_train_batch_size"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *(("trian", "train"), ("tran", "train"), ("trai", "train"), ("tarin", "train"), ("Train", "train")),
        *(("chekc", "check"), ("cht", "chat"), ("exprot", "export"), ("previw", "preview")),
        *(("check_deploy", "check-deploy"), ("check_depoly", "check-deploy")),
        *((far, None) for far in ("serve", "tune", "tr", "mode", "merging", "xyz")),
    ],
)
def test_verbs_near_and_far(word, meant):
    assert nearest(word, VERBS) == ([] if meant is None else [meant])


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *(("--lora_rnak", "--lora_rank"), ("-lora_rank", "--lora_rank"), ("--lora-rnk", "--lora_rank")),
        *(("--max_seq_len", "--max_seq_length"), ("--max", "--max_seq_length"), ("--peft_pat", "--peft_path")),
        *(("--top_k", None), ("--temperature", None), ("--qqq", None), ("--ma", None), ("--lr", None)),
        *(("--batch_size", None), ("--model", None)),
    ],
)
def test_options_near_and_far(word, meant):
    assert nearest(word, OPTIONS) == ([] if meant is None else [meant])


def test_a_begin_of_several_names_them_or_none():
    assert nearest("--per", ["--per_a", "--per_b"]) == ["--per_a", "--per_b"]
    assert nearest("--per", [f"--per_{i}" for i in range(5)]) == []


@pytest.mark.parametrize(
    ("given", "meant"),
    [("q_proj，v_proj", "q_proj,v_proj"), ("q_proj、v_proj", "q_proj,v_proj"), ("1．5", "1.5"), ("1e–4", "1e-4")],
)
def test_values_in_other_signs(given, meant):
    assert value_meant(given) == meant


@pytest.mark.parametrize("given", ["你好，世界", "——你好", "1e-4", "", "é"])
def test_values_that_are_meant(given):
    assert value_meant(given) is None


def test_lists_with_other_separators_are_told_of(tmp_path):
    with pytest.raises(DataError, match=r"no such folder or file; .*; '，' is a full-width comma, type"):
        find_files("a.json，b.json")
    with pytest.raises(
        UsageError,
        match="number from 0 up; '，' is a full-width comma, type ','; '：' is a full-width colon",
    ):
        mixing.parse("a.json：2，b.json：1", ["a.json", "b.json"])
    (tmp_path / "甲，乙.json").write_text("[]")  # a name may have one
    assert find_files(str(tmp_path / "甲，乙.json")) == [tmp_path / "甲，乙.json"]


def test_plain():
    assert plain("－－ｌｏｒａ＿ｒａｎｋ＝８") == "--lora_rank=8"


# ---- parsers


@pytest.fixture
def own():
    parser = Parser("yangtuo x")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--ask", action="append")
    parser.add_argument("--many", nargs="+")
    parser.add_argument("--off", action="store_false")
    parser.add_argument("--json", action="store_true")
    actions = parser.add_subparsers(dest="action")
    actions.add_parser("inner").add_argument("--deep")
    return parser


def refused(parser, *words):
    with pytest.raises(UsageError) as caught:
        parser.parse_args(words)
    return str(caught.value)


def test_twice_with_the_same_value_is_fine_and_what_may_be_repeated_is_kept(own):
    found = own.parse_args(
        ["--rank", "8", "--rank=08", "--ask", "a", "--ask", "b", "--json", "--json", "--off", "--off"]
    )
    assert (found.rank, found.ask, found.json, found.off) == (8, ["a", "b"], True, False)


@pytest.mark.parametrize(
    ("words", "found", "said"),
    [
        (["--rank", "8", "--rank", "4"], {"rank": 4}, ["--rank 8 and --rank 4: the last one counts"]),
        (["--many", "a", "b", "--many", "c"], {"many": ["c"]}, ["--many a b and --many c: the last one counts"]),
        (["inner", "--deep", "a", "--deep", "b"], {"deep": "b"}, ["--deep a and --deep b: the last one counts"]),
        (["--rank", "8", "--rank", "8"], {"rank": 8}, []),
    ],
)
def test_of_two_values_the_last_counts_which_is_said(own, caplog, words, found, said):
    assert vars(own.parse_args(words)).items() >= found.items()
    assert [record.getMessage() for record in caplog.records] == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rakn", "8"], "unknown option '--rakn'; did you mean '--rank'?"),
        (["inner", "--depe", "a"], "unknown option '--depe'; did you mean '--deep'?"),
        (["--zzz"], "unknown option '--zzz'; yangtuo x --help lists the options"),
        (["—rank", "8"], "unknown option '—rank', which is not all ASCII (—); did you mean '--rank'?"),
        (["inner", "–deep", "8"], "unknown option '–deep', which is not all ASCII (–); did you mean '--deep'?"),
        (["--rank＝8"], "unknown option '--rank＝8', which is not all ASCII (＝); did you mean '--rank'?"),
    ],
)
def test_what_is_wrong_with_words(own, words, said):
    assert refused(own, *words) == f"yangtuo x: {said}"


def test_all_of_it_at_once(own):
    assert refused(own, "--rank", "8", "--zzz", "--rnak", "3").splitlines() == [
        "yangtuo x (2 problems):",
        "  unknown option '--zzz'; yangtuo x --help lists the options",
        "  unknown option '--rnak'; did you mean '--rank'?",
    ]


def test_a_parser_forgets_the_words_of_before(own, caplog):
    own.parse_args(["--rank", "8", "--rank", "4"])
    caplog.clear()
    assert own.parse_args(["--rank", "4"]).rank == 4
    assert not caplog.records


def test_a_value_may_begin_with_a_dash_of_text(own):
    assert own.parse_args(["--ask", "——你好", "--ask", "—— what"]).ask == ["——你好", "—— what"]


def test_behind_two_dashes_all_words_are_values():
    parser = Parser("yangtuo x")
    parser.add_argument("target")
    assert parser.parse_args(["--", "--rnak"]).target == "--rnak"


def test_a_value_in_other_signs_is_named(own):
    assert refused(own, "--rank", "1．5").endswith("invalid int value: '1．5'; did you mean '1.5'?")


# ---- the options of a run, and files of them


def refused_run(*words):
    with pytest.raises(UsageError) as caught:
        parse([str(word) for word in words], build_parser("yangtuo train"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--gradient_checkpointing", "auto", "--gradient_checkpointing"],
            "--gradient_checkpointing auto and --gradient_checkpointing True: give",
        ),
        (
            ["--trainable", "q_proj，v_proj"],
            "--trainable q_proj，v_proj: '，' is a full-width comma, type ','; did you mean 'q_proj,v_proj'?",
        ),
        (
            ["--rank_pattern", "q_proj：4"],
            "--rank_pattern q_proj：4: '：' is a full-width colon, type ':'; did you mean 'q_proj:4'?",
        ),
    ],
)
def test_options_of_a_run(words, said):
    assert said in refused_run(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lora_rank", 8, "--lora-rank", 4], "--lora_rank 8 and --lora-rank 4"),
        (
            ["--dtype", "auto", "--torch_dtype", "float32"],
            "--dtype auto and --torch_dtype float32",
        ),
        (["--fp16", "--fp16", "False"], "--fp16 True and --fp16 False"),
    ],
)
def test_of_two_values_of_a_run_the_last_counts(caplog, words, said):
    settings, _ = parse([str(word) for word in words], build_parser("yangtuo train"))
    assert [record.getMessage() for record in caplog.records] == [f"{said}: the last one counts"]
    assert (settings.lora.lora_rank, settings.model.torch_dtype, settings.training.get("fp16")) in [
        (4, None, None),
        (8, "float32", None),
        (8, None, False),
    ]


def test_a_flag_may_override_the_file_and_full_width_digits_are_digits(tmp_path):
    (tmp_path / "run.yaml").write_text("lora_rank: 8\n")
    settings, _ = parse([str(tmp_path / "run.yaml"), "--lora_rank", "４"], build_parser("yangtuo train"))
    assert settings.lora.lora_rank == 4


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "lora_rank: 8\nlora_rank: 4\n", "line 2: the key 'lora_rank' stands twice, as 8 and 4; keep one"),
        ("a.yaml", "lora_rank: 8\nlora_rank: 8\n", "line 2: the key 'lora_rank' stands twice, as 8 and 8; keep one"),
        ("a.json", '{"lora_rank": 8, "lora_rank": 4}', "the key 'lora_rank' stands twice, as 8 and 4; keep one"),
        ("a.yaml", "lora_rank: 8\nlora-rank: 4\n", "--lora_rank 8 and --lora-rank 4: give one of them"),
        ("a.yaml", "fsdp_config: {a: 1, a: 2}\n", "line 1: the key 'a' stands twice, as 1 and 2; keep one of them"),
        ("a.yaml", "—lora_rank: 8\n", "unknown option '—lora_rank', which is not all ASCII; did you mean 'lora_rank'?"),
        (
            "a.yaml",
            "max_steps: 1\nlora_rank：8\n",
            "line 2: 'lora_rank：8' has a full-width colon; write 'lora_rank: '",
        ),
        ("a.yaml", "lora_rank：8\n", "line 1: 'lora_rank：8' has a full-width colon; write 'lora_rank: '"),
        (
            "a.yaml",
            "trainable: q_proj，v_proj\n",
            "--trainable q_proj，v_proj: '，' is a full-width comma, type ','; did you mean",
        ),
    ],
)
def test_files_of_options(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert said in refused_run(tmp_path / name)


def test_auto_on_the_command_line_overrides_the_file(tmp_path):
    (tmp_path / "run.yaml").write_text("gradient_checkpointing: true\n")
    settings, _ = parse([str(tmp_path / "run.yaml"), "--gradient_checkpointing", "auto"], build_parser("yangtuo train"))
    assert not settings.given("gradient_checkpointing")


def test_a_merge_key_of_yaml_may_stand_beside_what_it_brings(tmp_path):
    text = "lr_scheduler_type: cosine\nlr_scheduler_kwargs: {<<: {num_cycles: 1}, num_cycles: 2}\n"
    (tmp_path / "a.yaml").write_text(text)
    settings, _ = parse([str(tmp_path / "a.yaml")], build_parser("yangtuo train"))
    assert settings.training["lr_scheduler_kwargs"] == '{"num_cycles": 2}'


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in OF_A_RUN])
def test_every_verb_names_dashes_and_near_options(verb):
    module = module_of(verb)
    parser = Parser(f"yangtuo {verb}")
    module.add_options(parser)
    option = next(one for one in parser.known_options() if one.startswith("--") and len(one) > 7 and one != "--help")
    assert f"did you mean '{option}'?" in refused(parser, f"—{option[2:]}", "x")
    assert f"did you mean '{option}'?" in refused(parser, f"－－{option[2:]}＝x")


def test_plain_argparse_takes_the_last_value():
    """The control: what is refused here passes there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int)
    assert parser.parse_args(["--rank", "8", "--rank", "4"]).rank == 4


# ---- full-width signs in values


def test_signs_are_named_with_what_is_typed_for_them():
    assert wide_signs("“a”，b：c—d") == [
        "'“”' is a full-width quote, type '\"'",
        "'，' is a full-width comma, type ','",
        "'：' is a full-width colon, type ':'",
        "'—' is a dash, type '-'",
    ]
    assert wide_signs("‘a’、b－c　d；") == [
        "'‘’' is a full-width quote, type \"'\"",
        "'、' is a Chinese comma, type ','",
        "'；' is a full-width semicolon, type ';'",
        "'－' is a full-width hyphen, type '-'",
        "'\\u3000' is a full-width space, type ' '",
    ]
    assert wide_signs("data/训练.json") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--dataset_dir", "“data”"],
            "--dataset_dir “data”: '“”' is a full-width quote, type '\"', or leave the quotes out: data",
        ),
        (
            ["--output_dir", "“out"],
            "--output_dir “out: '“' is a full-width quote, type '\"', or leave the quotes out: out",
        ),
        (
            ["--template", "‘chatml’"],
            "--template ‘chatml’: '‘’' is a full-width quote, type \"'\", or leave the quotes",
        ),
        (["--report_to", "“wandb”"], "--report_to “wandb”: '“”' is a full-width quote"),
        (
            ["--bad_rows", "“drop”"],
            "(choose from 'error', 'drop'); '“”' is a full-width quote, type '\"'; did you mean 'drop'?",
        ),
        (["--fp16", "“true”"], "'“”' is a full-width quote, type '\"'; did you mean 'true'?"),
        (["--learning_rate", "1e—4"], "'—' is a dash, type '-'; did you mean '1e-4'?"),
        (["--max_steps", "１，０"], "'，' is a full-width comma, type ','; did you mean '1,0'?"),
    ],
)
def test_a_value_in_full_width_signs(words, said):
    assert said in refused_run(*words)


def test_all_values_in_quotes_are_told_at_once(tmp_path):
    (tmp_path / "a.yaml").write_text("template: “chatml”\ndataset_dir: ‘data’\n", encoding="utf-8")
    said = refused_run(tmp_path / "a.yaml")
    assert said.startswith("options (2 problems):")
    assert "--template “chatml”: '“”'" in said
    assert "--dataset_dir ‘data’: '‘’'" in said


def test_verbs_of_their_own_tell_them_too(own):
    own.add_argument("--peft_path")
    assert "--peft_path “x”: '“”' is a full-width quote" in refused(own, "--peft_path", "“x”")


def test_what_a_person_says_may_have_quotes_and_so_may_a_file(tmp_path, monkeypatch, own):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "“甲”").mkdir()
    settings, _ = parse(["--system_prompt", "“你好”", "--dataset_dir", "“甲”"], build_parser("yangtuo train"))
    assert (settings.data.system_prompt, settings.data.dataset_dir) == ("“你好”", "“甲”")
    assert own.parse_args(["--ask", "“你好”"]).ask == ["“你好”"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data—zh.json", "'—' is a dash, type '-'"),
        ("data：a.json", "'：' is a full-width colon, type ':'"),
        ("a.json、b.json", "'、' is a Chinese comma, type ','"),
    ],
)
def test_a_path_that_is_not_there(path, said, tmp_path):
    with pytest.raises(DataError) as caught:
        find_files(str(tmp_path / path))
    assert str(caught.value).endswith(said)
    with pytest.raises(ModelError) as caught:
        local_folder(f"./{path}", option="model_name_or_path", must_hold=["config.json"], source=Source())
    assert str(caught.value).endswith(said)
