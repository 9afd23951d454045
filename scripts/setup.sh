#!/usr/bin/env bash
# Makes the project runnable on a fresh machine: a virtual environment `.venv` with the tested versions.
# Both run_sft.sh and test.sh source it; it is safe to run again and takes a moment when nothing is to do.
#
#   * An active environment (venv or conda) that already has torch 2.13 or newer is used: only what is missing is added.
#   * pip's own configuration (index mirrors, proxies) applies; HF_ENDPOINT names a mirror for models fetched by name.
#   * With an NVIDIA GPU that is too old for pip's torch, or a driver that is, torch for CUDA 12.6 is installed;
#     TORCH_INDEX_URL names a mirror of its index.
#   * YANGTUO_VENV names another place for the environment, PYTHON another interpreter.
#   * YANGTUO_LANG=zh or en chooses the language of what is said, else the locale does.

# say "English" "Chinese": prints one of them, by the same rule as `yangtuo` itself.
say() {
    local language="${YANGTUO_LANG:-}"
    case "$language" in
        [zZ][hH] | [eE][nN]) ;;
        *) language="${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}" ;; # the first that is set
    esac
    case "$language" in
        [zZ][hH]*) echo "$2" ;;
        *) echo "$1" ;;
    esac
}

# What torch's version needs behind it, where pip's default does not fit the machine's NVIDIA GPUs: that is made for
# CUDA 13, which wants driver 580 and compute capability 7.5 (no V100, no P100). Nothing where it fits.
yangtuo_torch() {
    local capability driver
    while IFS=', ' read -r capability driver; do
        if [ "${driver%%.*}" -lt 580 ] || [ "${capability/./}" -lt 75 ]; then
            echo "+cu126 (driver $driver, compute capability $capability)"
            return 0
        fi
    done < <(nvidia-smi --query-gpu=compute_cap,driver_version --format=csv,noheader 2>/dev/null)
}

yangtuo_setup() {
    local root python environment stamp wanted found free older version details details_zh
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" || return 1
    environment="${YANGTUO_VENV:-$root/.venv}"
    wanted="$(cat "$root/pyproject.toml" "$root/requirements.lock" | cksum) $root"

    if [ -z "${YANGTUO_VENV:-}" ] && [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] \
        && python -c 'import sys, importlib.util as u, importlib.metadata as m; sys.exit(sys.version_info < (3, 11) or not u.find_spec("torch") or tuple(map(int, m.version("torch").split(".")[:2])) < (2, 13))' 2>/dev/null; then
        environment="${VIRTUAL_ENV:-$CONDA_PREFIX}"
        if [ "$(cat "$environment/.yangtuo-setup" 2>/dev/null)" != "$wanted" ]; then
            say "setup: using the active environment $environment and its torch" \
                "setup：使用当前已激活的环境 ${environment} 和其中的 torch"
            python -m pip install --quiet --disable-pip-version-check -e "$root[dev,data,modelscope,eval]" || return 1
            echo "$wanted" > "$environment/.yangtuo-setup"
        fi
        return 0
    fi

    stamp="$environment/.yangtuo-setup"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        for python in "${PYTHON:-}" python3.12 python3.11 python3.13 python3; do
            [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
            python=""
        done
        if [ -z "$python" ]; then
            found="$(python3 --version 2>&1)" || true
            say "setup: Python 3.11 or newer is needed; found $found. Install it, or name it: PYTHON=/path/to/python3.11" \
                "setup：需要 Python 3.11 或更新的版本；找到的是 ${found}。请安装，或指定它的位置：PYTHON=/path/to/python3.11" >&2
            return 2
        fi
        if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
            say "setup: $("$python" --version) has no venv module; on Debian and Ubuntu: apt install python3-venv" \
                "setup：$("$python" --version) 没有 venv 模块；在 Debian 和 Ubuntu 上：apt install python3-venv" >&2
            return 2
        fi
        mkdir -p "$environment" || return 2
        free="$(df -Pk "$environment" | awk 'NR == 2 { print int($4 / 1048576) }')"
        if [ "$free" -lt 3 ]; then
            say "setup: $free GiB free where $environment would lie; 3 are needed (10 with a CUDA build of torch). Free some, or name another place: YANGTUO_VENV=/path" \
                "setup：${environment} 所在的磁盘空闲 $free GiB；需要 3 GiB（CUDA 版 torch 需要 10 GiB）。请腾出空间，或换个位置：YANGTUO_VENV=/path" >&2
            return 2
        fi
        say "setup: installing into $environment with $("$python" --version), once; a few minutes" \
            "setup：正在用 $("$python" --version) 安装到 ${environment}，只装一次，要几分钟"
        "$python" -m venv "$environment" || return 1
        older="$(yangtuo_torch)"
        if [ -n "$older" ]; then
            version="$(sed -n 's/^torch==//p' "$root/requirements.lock")${older%% *}"
            details="${older#* }"
            details_zh="$(echo "$details" | sed 's/(driver/（驱动/; s/, compute capability/，计算能力/; s/)/）/')"
            say "setup: torch $version, for this machine's GPU $details" \
                "setup：安装 torch ${version}，以适合这台机器的 GPU${details_zh}"
            "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "torch==$version" \
                --extra-index-url "${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cu126}" || return 1
        fi
        # Compiled by all processors, where pip takes one, except what is hardly used: Python compiles it when it is.
        # Files of another Python among them do no harm.
        "$environment/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check -r "$root/requirements.lock" || return 1
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e "$root" || return 1
        "$environment/bin/python" -m compileall -qq -j 0 -x '/(tests?|transformers/models|networkx|mypy|pip)/' "$environment/lib" || true
        echo "$wanted" > "$stamp"
    fi
    export PATH="$environment/bin:$PATH"
}

yangtuo_setup || exit $?
