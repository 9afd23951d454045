"""What the environment's variables make of a run: a launcher's, accelerate's, the model hub's, proxies.

Nothing is asked over the network unless the user says so.
"""

import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from yangtuo.config.choices import Hub
from yangtuo.diagnosis.finding import Finding, note, ok, problem
from yangtuo.errors import one_line
from yangtuo.i18n import Message
from yangtuo.installing import pip_install
from yangtuo.model.hubs import host_of, hub_of, is_mirror, modelscopes_cache, modelscopes_endpoint

_PATIENCE_S = 5.0
_RENDEZVOUS = ("WORLD_SIZE", "RANK", "MASTER_ADDR")
_OF_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_PROXIES = ("https_proxy", "http_proxy", "all_proxy")


def of_launch(environment: Mapping[str, str], *, is_cpu: bool) -> Finding:
    """Of what a launcher tells its processes; left over in a shell, a run waits for processes that nobody starts.

    Those of MPI are read by accelerate, for processes on a CPU alone.
    """
    found = {name: environment[name] for name in (*_RENDEZVOUS, "LOCAL_RANK", *_OF_MPI) if environment.get(name)}
    variables = ", ".join(f"{name}={value}" for name, value in found.items())
    told = Message("{variables} in the environment", variables=variables)
    name = Message("launch")
    remedy = Message("unset {names}; torchrun starts several processes", names=" ".join(found))
    sizes = [found.get(one, "1") for one in ("WORLD_SIZE", *(_OF_MPI if is_cpu else ()))]
    if not found:
        return ok(name, Message("one process; no launcher's variables in the environment"))
    if "TORCHELASTIC_RUN_ID" in environment:
        return ok(name, Message("a process of torchrun ({told})", told=told))
    if set(sizes) != {"1"}:
        return problem(name, Message("{told}: a run would wait for processes that nobody starts", told=told), remedy)
    if "LOCAL_RANK" in found and not set(_RENDEZVOUS) <= set(found):
        return problem(
            name, Message("{told}: a run would look for other processes, and not know where", told=told), remedy
        )
    if found.get("RANK", "0") != "0":
        return note(
            name, Message("{told}: a run would take itself for one of several, and say nothing", told=told), remedy
        )
    return note(name, Message("{told}, as a launcher leaves it", told=told), remedy)


def of_accelerate(environment: Mapping[str, str]) -> list[Finding]:
    """Of variables by which `accelerate launch` chooses device, precision and engine, beside the options of a run."""
    found = sorted(name for name in environment if name.startswith("ACCELERATE_"))
    if not found:
        return []
    told, remedy = ", ".join(f"{name}={environment[name]}" for name in found), f"unset {' '.join(found)}"
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        return [
            problem(
                "accelerate",
                Message("{told} in the environment: a run without --deepspeed is refused", told=told),
                remedy,
            )
        ]
    return [note("accelerate", Message("{told} in the environment, beside the options of a run", told=told), remedy)]


def of_hub(endpoint: str, *, is_offline: bool, has_xet: bool) -> Finding:
    """Of the hub from which models are fetched by name; `has_xet`: large files go past a mirror, to Xet's own servers.

    Source: huggingface_hub issue 4475, padeoe/hf-mirror-site issue 50.
    """
    host = host_of(endpoint)
    if is_offline:
        return ok(Message("model hub"), Message("not asked (HF_HUB_OFFLINE); models are folders"))
    if host is None:
        remedy = Message("export HF_ENDPOINT=https://hf-mirror.com, with https://, or unset HF_ENDPOINT")
        return note(
            Message("model hub"),
            Message("HF_ENDPOINT={endpoint} is no address: no model is fetched by name", endpoint=endpoint),
            remedy,
        )
    if not is_mirror(endpoint):
        return ok(
            Message("model hub"), Message("{host}, for models given by name; HF_ENDPOINT names a mirror", host=host)
        )
    if has_xet:
        remedy = Message("export HF_HUB_DISABLE_XET=1, and the mirror serves all files")
        return note(
            Message("model hub"),
            Message("the mirror {host}, with Xet: large files are fetched past the mirror", host=host),
            remedy,
        )
    return ok(Message("model hub"), Message("the mirror {host}", host=host))


def of_modelscope(*, has_client: bool) -> Finding:
    """Of ModelScope, where a variable names it for models given by name."""
    if has_client:
        return ok(
            Message("model hub"),
            Message("ModelScope ({host}), since USE_MODELSCOPE_HUB is set", host=host_of(modelscopes_endpoint())),
        )
    remedy = Message("{command}, or unset USE_MODELSCOPE_HUB", command=pip_install("modelscope"))
    return note(
        Message("model hub"),
        Message("ModelScope (USE_MODELSCOPE_HUB), whose client modelscope-hub is not installed"),
        remedy,
    )


def of_proxies(environment: Mapping[str, str], *, has_socks: bool) -> list[Finding]:
    """Of proxies; `has_socks`: the package that the hub's library needs for one of SOCKS is installed."""
    given = {name: environment.get(name) or environment.get(name.upper()) for name in _PROXIES}
    found = {name: value for name, value in given.items() if value}
    if not found:
        return []
    told = ", ".join(f"{name}={_without_password(value)}" for name, value in found.items())
    if any(value.lower().startswith("socks") for value in found.values()) and not has_socks:
        return [
            note(
                Message("proxies"), told, Message("pip install socksio, which SOCKS needs; else fetching a model fails")
            )
        ]
    return [ok(Message("proxies"), told)]


def _without_password(url: str) -> str:
    before, at, host = url.rpartition("@")
    return f"{before.partition('://')[0]}://***@{host}" if at else url


def of_answer(host: str, answer: str, seconds: float, *, is_there: bool) -> Finding:
    """Of one request to the hub."""
    if is_there:
        return ok(
            Message("online"),
            Message("{host} answers ({answer}) after {seconds:.1f} s", host=host, answer=answer, seconds=seconds),
        )
    remedy = Message(
        "fetch the model elsewhere and give its folder; or export HF_ENDPOINT=https://hf-mirror.com, or a proxy"
    )
    return note(Message("online"), Message("{host} does not answer: {answer}", host=host, answer=answer), remedy)


def ask(endpoint: str) -> Finding:
    """Send one HEAD request to the hub, the only word that goes over the network."""
    host, begin = host_of(endpoint) or endpoint, time.monotonic()
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_PATIENCE_S) as answer:
            told, is_there = str(answer.status), True
    except urllib.error.HTTPError as error:  # it is there, whatever it thinks of the request
        told, is_there = str(error.code), error.code < 500
    except (OSError, ValueError) as error:
        told, is_there = one_line(getattr(error, "reason", None) or error, 160), False
    return of_answer(host, told, time.monotonic() - begin, is_there=is_there)


def hub(environment: Mapping[str, str], *, online: bool) -> tuple[list[Finding], Path | None]:
    """Of the hub, as its own library reads the environment, and where models lie that were fetched from it."""
    proxies = of_proxies(environment, has_socks=find_spec("socksio") is not None)
    if hub_of(Hub.AUTO) is Hub.MODELSCOPE:
        found, endpoint = of_modelscope(has_client=find_spec("modelscope_hub") is not None), modelscopes_endpoint()
        return [found, *([ask(endpoint)] if online else []), *proxies], modelscopes_cache()
    try:
        from huggingface_hub import constants
    except ImportError:  # said of transformers, which needs it
        return proxies, None

    has_xet = find_spec("hf_xet") is not None and not constants.HF_HUB_DISABLE_XET
    found = of_hub(constants.ENDPOINT, is_offline=constants.HF_HUB_OFFLINE, has_xet=has_xet)
    asked = [ask(constants.ENDPOINT)] if online else []
    return [found, *asked, *proxies], Path(constants.HF_HUB_CACHE)
