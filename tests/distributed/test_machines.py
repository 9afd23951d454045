"""Two machines: two launchers that meet, with one output folder or one each; two network namespaces and a cable."""

import contextlib
import os
import shutil
import subprocess

import pytest

from tests import tiny
from tests.command import free_port, log_of, yangtuo
from tests.distributed.launch import RUN, Running, assert_bit_identical, assert_same, command, needs
from yangtuo.engine import checkpoint


def node(inputs, out, rank, address, port, *options, **changes):
    launcher = ("--nnodes", 2, "--node_rank", rank, "--master_addr", address, "--master_port", port)
    words = command(inputs, out, *options, launcher=launcher, num_processes=1, rows=4, **changes)
    return words


def both(words, env=None, prefixes=((), ())):
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(Running([*p, *w], env=env)) for p, w in zip(prefixes, words, strict=True)]
        return [running.end() for running in nodes]


@pytest.mark.parametrize(("name", "layout"), [("zero2", "one each")])  # one folder for both: in forks, below
def test_two_machines_train_die_and_go_on(name, layout, engines, inputs, tmp_path, whole):
    """Killed at step 5 on the second machine; each machine has the seed that its own script has drawn."""
    needs(engines[name])
    folders = [tmp_path / "a", tmp_path / ("a" if layout == "shared" else "b")]
    options = engines[name].options

    def words(port):
        return [
            node(inputs, folder, rank, "127.0.0.1", port, *options, seed=11 + rank)
            for rank, folder in enumerate(folders)
        ]

    died = both(words(free_port()), env={"KILL_AT": "1:5"})
    assert died[1].code == 137
    assert died[0].code != 0
    assert checkpoint.latest_complete(folders[0]).name == "checkpoint-3"
    again = both(words(free_port()))
    assert [done.code for done in again] == [0, 0], [done.said for done in again]
    assert "resuming from" in again[0].said
    assert_bit_identical(folders[0], whole(name, seed=11))
    if layout == "one each":
        assert not (folders[1] / "sft_lora_model").exists()  # only what each needs is written there
        assert not list(folders[1].glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("data", lambda place: tiny.write_rows(place / "data" / "b.json", tiny.rows(29)[20:])),
        ("base", lambda place: tiny.tiny_llama(place / "base", seed=1)),
        ("tokenizer", lambda place: (place / "base" / "tokenizer_config.json").write_text('{"a": 1}')),
        (None, lambda place: None),
    ],
    ids=["an older copy of a file", "another base", "another tokenizer", "the same"],
)
def test_machines_with_other_files_are_refused_before_the_first_step(what, change, inputs, tmp_path):
    """Nothing but the name of a file is alike: with as many rows, they would train on two data sets."""
    for name in "ab":
        shutil.copytree(inputs.base, tmp_path / name / "base")
        shutil.copytree(inputs.data, tmp_path / name / "data")
    change(tmp_path / "b")
    here = tmp_path / "a"
    own = {"model_name_or_path": here / "base", "dataset_dir": here / "data", "data_cache_dir": here / "cache"}
    done = on_each(tmp_path, inputs.options(here / "out", **ALONE, **own))
    if what is None:
        assert done.code == 0, done.said
        return
    assert done.code != 0
    assert "processes have read different inputs; copy the same files to every machine" in done.said
    assert f" {what}: " in done.said
    for name in "ab":
        assert not (tmp_path / name / "out").exists() or log_of(tmp_path / name / "out") == []


ALONE = {"per_device_train_batch_size": 4, "max_steps": 2}


def on_each(folder, words):
    """Two processes that take each other for another machine's: what one has in `folder/a` the other has in `folder/b`.

    Without launchers, which cost ten seconds each; those are in the tests above.
    """
    first = "import os, sys; os.environ.update(LOCAL_RANK='0', LOCAL_WORLD_SIZE='1')\n"
    first += f"a, here = {str(folder / 'a')!r}, {str(folder)!r} + '/' + 'ab'[int(os.environ['RANK'])]\n"
    first += "sys.argv = [word.replace(a, here) for word in sys.argv]"
    return yangtuo("train", *words, first=first, num_processes=2)


def test_two_machines_with_one_folder_die_and_go_on(engines, inputs, tmp_path, whole):
    """As over a shared disk; killed at step 5 on the second."""
    apart = "import os; os.environ.update(LOCAL_RANK='0', LOCAL_WORLD_SIZE='1')\n"
    apart += "from tests.distributed.launched import prepare; prepare()"
    values = {**RUN, "per_device_train_batch_size": 4, "seed": 11}
    words = ["train", *inputs.options(tmp_path / "out", **values)]
    died = yangtuo(*words, env={"KILL_AT": "1:5"}, first=apart, num_processes=2)
    assert died.code == 137
    assert checkpoint.latest_complete(tmp_path / "out").name == "checkpoint-3"
    again = yangtuo(*words, first=apart, num_processes=2)
    assert again.code == 0, again.said
    assert "resuming from" in again.said
    assert_bit_identical(tmp_path / "out", whole("ddp", seed=11))


def test_save_on_each_node_writes_on_both(inputs, tmp_path):
    options = {**ALONE, "save_strategy": "steps", "save_steps": 1}
    done = on_each(tmp_path, inputs.options(tmp_path / "a" / "out", save_on_each_node=True, **options))
    assert done.code == 0, done.said
    for name in "ab":
        assert checkpoint.latest_complete(tmp_path / name / "out").name == "checkpoint-2"


def test_a_failed_proof_renames_the_adapter_on_both(inputs, tmp_path):
    """With one step, a warm-up makes that step's learning rate 0."""
    nothing = {**ALONE, "max_steps": 1, "warmup_steps": 1, "lr_scheduler_type": "cosine"}
    done = on_each(tmp_path, inputs.options(tmp_path / "a" / "out", save_on_each_node=True, **nothing))
    assert "proof failed: no trained weight has changed" in done.said
    assert done.code == 1
    for name in "ab":
        out = tmp_path / name / "out"
        assert (out / "sft_lora_model.failed-proof" / "adapter_model.safetensors").is_file()
        assert not (out / "sft_lora_model").exists()


@pytest.fixture
def cable():
    """Two network namespaces, yt0 and yt1, joined by a veth pair; 10.77.0.1 and 10.77.0.2."""
    commands = [
        *(f"ip netns add yt{i}" for i in (0, 1)),
        "ip link add ytv0 netns yt0 type veth peer name ytv1 netns yt1",
        *(f"ip -n yt{i} addr add 10.77.0.{i + 1}/24 dev ytv{i}" for i in (0, 1)),
        *(f"ip -n yt{i} link set {device} up" for i in (0, 1) for device in ("lo", f"ytv{i}")),
    ]

    def remove():
        for i in (0, 1):
            subprocess.run(["ip", "netns", "del", f"yt{i}"], capture_output=True, check=False)

    if shutil.which("ip") is None:
        pytest.skip("no ip command")
    remove()
    for line in commands:
        done = subprocess.run(line.split(), capture_output=True, text=True, check=False)
        if done.returncode:
            remove()
            pytest.skip(f"no network namespaces here: {line}: {done.stderr.strip()}")
    yield
    remove()


def received(i):
    text = subprocess.run(
        ["ip", "netns", "exec", f"yt{i}", "cat", f"/sys/class/net/ytv{i}/statistics/rx_bytes"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return int(text)


def test_two_hosts_joined_by_a_cable(cable, inputs, tmp_path, whole):
    words = [
        node(inputs, tmp_path / "out", rank, "10.77.0.1", 29501, modules_to_save="embed_tokens,lm_head")
        for rank in (0, 1)
    ]
    prefixes = [
        ("ip", "netns", "exec", f"yt{i}", "env", f"GLOO_SOCKET_IFNAME=ytv{i}", f"PATH={os.environ['PATH']}")
        for i in (0, 1)
    ]
    done = both(words, prefixes=prefixes)
    assert [each.code for each in done] == [0, 0], [each.said for each in done]
    assert_same(tmp_path / "out", whole("ddp", modules_to_save="embed_tokens,lm_head"))
    assert min(received(0), received(1)) > 8 * 30_000 * 4  # the gradients of 8 steps went over it


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_meeting_to_which_not_all_come_is_told(rank, engines, inputs, tmp_path):
    """As where a container of a cluster has these in its environment, and one process is started by hand."""
    env = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    port = str(free_port())
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    done = yangtuo("train", *inputs.options(tmp_path / "out", ddp_timeout=3), env=env, timeout=60)
    assert (
        f"rank {rank}: waiting for the other processes (1 of 2) at 127.0.0.1:{port}; WORLD_SIZE=2 is in the "
        "environment; started alone, unset WORLD_SIZE and RANK"
    ) in done.said
    assert done.code == 1
    assert "the meeting of all processes: another process is gone or unreachable" in done.said
    assert "GLOO_SOCKET_IFNAME" in done.said
    assert "Traceback" not in done.said
    assert not (tmp_path / "out").exists() or log_of(tmp_path / "out") == []
