#!/usr/bin/env bash
# Makes the environment that the other scripts use, and activates it where it is sourced:
#   bash tools/setup_env.sh          # what d2detr needs to train, evaluate and draw
#   source tools/setup_env.sh test   # the test extras too
# It uses the active virtual environment and keeps those packages in it that are new enough, or
# else makes one in .venv/ with exactly the versions that CI uses. PYTHON names the Python to make
# it with. A second run takes seconds.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/tools/show_help.sh"
extras=draw,report${1:+,$1}
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { echo "[set-up] $*"; }
fail() {
    echo "[set-up] error: $*" >&2
    exit 1
}

check_extras() {
    local name
    for name in ${extras//,/ }; do
        grep -q "^    \"$name\": \[" "$root/setup.py" \
            || fail "there are no extras named '$name'; setup.py lists those there are."
    done
}

find_or_make_environment() {
    if [[ -n ${VIRTUAL_ENV:-} ]]; then
        environment=$VIRTUAL_ENV
        say "using the active virtual environment, $environment"
    else
        environment=$root/.venv
        make_environment "${PYTHON:-python3}"
    fi
    "$environment/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
        || fail "$environment has no Python 3.10 or newer; use another virtual environment."
    "$environment/bin/python" -m pip --version > /dev/null \
        || fail "$environment has no pip; use another virtual environment."
}

make_environment() {
    local python=$1
    # An interrupted run can leave an environment without pip: it is made again.
    if "$environment/bin/python" -m pip --version &> /dev/null; then
        say "using $environment"
        return
    fi
    command -v "$python" > /dev/null || fail "there is no '$python'; name a Python with PYTHON=..."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
        || fail "'$python' is $("$python" -V 2>&1), d2detr needs 3.10 or newer; name one with PYTHON=..."
    "$python" -c 'import ensurepip, venv' 2> /dev/null \
        || fail "'$python' lacks venv or pip (on Debian: apt install python3-venv)."
    say "making $environment with $("$python" -V)"
    "$python" -m venv --clear "$environment" || fail "could not make $environment."
}

# Prints what an installation depends on, so that a change of any of it installs again.
describe_installation() {
    "$environment/bin/python" -c '
import hashlib, pathlib, sys
for name in sys.argv[1:]:
    print(hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest(), name)
print(sys.version)' "$root"/{setup.py,constraints.txt,tools/setup_env.sh}
}

# Of another Detectron2 than the one that is installed below, nothing more is asked.
has_detectron2() (
    cd "$root" # for Python looks in the current folder, too; and a mere folder has no origin
    "$environment/bin/python" -c '
import importlib.metadata, importlib.util, pathlib, sys
spec = importlib.util.find_spec("detectron2")
if spec is None or spec.origin is None:
    sys.exit(1)
ours = any(importlib.metadata.distributions(name="pb1-detectron2"))
configs = pathlib.Path(spec.origin).parent / "model_zoo" / "configs"
sys.exit(ours and not configs.is_dir())'
)

install_d2detr() {
    say "installing d2detr[$extras]; the first time this downloads about 3 GB, mostly torch"
    local pip=("$environment/bin/python" -m pip install)
    if [[ $environment == "$root/.venv" ]]; then
        pip+=(--constraint "$root/constraints.txt")
    fi
    # setuptools first, because the next step builds with the environment's own.
    "${pip[@]}" --quiet 'setuptools>=70.1' || fail "could not install setuptools; pip says why above."
    "${pip[@]}" --no-build-isolation --editable "$root[$extras]" \
        || fail "could not install d2detr; pip says why above."
}

# The 0.6 release without its C++ part: the only Detectron2 on the package index.
#   pip < 26.3     newer ones refuse the extra requirements that it declares, even unasked for
#   no isolation   its build imports torch
#   --no-deps      some of what it demands is not needed, or cannot be installed any more
#   mv             its build installs the model zoo's configs, but looks for them where they are in
#                  the repository
install_detectron2() (
    say "installing Detectron2 0.6, Python part only"
    pip=("$environment/bin/python" -m pip)
    sources=$(mktemp -d)
    trap 'rm -rf "$sources"' EXIT
    "${pip[@]}" install --quiet 'pip>=23.2,<26.3' || fail "could not install a pip older than 26.3."
    "${pip[@]}" download --quiet --use-pep517 --no-build-isolation --no-deps --no-binary :all: \
        --dest "$sources" --requirement /dev/stdin << 'END' \
        || fail "could not download Detectron2; pip says why above."
pb1-detectron2==0.6 \
    --hash=sha256:5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29
END
    tar -xzf "$sources"/*.tar.gz -C "$sources" --strip-components=1
    mv "$sources/detectron2/model_zoo/configs" "$sources/configs"
    "${pip[@]}" install --quiet --use-pep517 --no-build-isolation --no-deps --force-reinstall \
        --config-settings=--global-option=build_py --config-settings=--build-option=--skip-build \
        "$sources" || fail "could not install Detectron2; pip says why above."
)

check_extras
find_or_make_environment
stamp=$environment/.d2detr-$extras
installation=$(describe_installation)
if [[ $(cat "$stamp" 2> /dev/null) != "$installation" ]]; then
    install_d2detr
fi
if ! has_detectron2; then
    install_detectron2
fi
if [[ $(cat "$stamp" 2> /dev/null) != "$installation" ]]; then
    "$environment/bin/python" -W ignore -c '
import d2detr, detectron2, torch
device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
print(f"[set-up] Detectron2 in {detectron2.__path__[0]}, torch {torch.__version__} on {device}")' \
        || fail "d2detr was installed, but cannot be imported."
    echo "$installation" > "$stamp"
fi
source "$environment/bin/activate"
say "ready: $environment"
