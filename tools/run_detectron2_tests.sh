#!/usr/bin/env bash
# Runs Detectron2's own tests with and without `import d2detr`, and fails if one that passes without
# it does not pass with it:
#   bash tools/run_detectron2_tests.sh CHECKOUT [ARGUMENTS OF PYTEST]
# CHECKOUT is a clone of Detectron2 at the version that is installed; only its tests/ is used. Many of
# 0.6's test files cannot even be imported without d2detr. Those that need compiled operators or
# datasets fail with it, too.
set -euo pipefail
if [[ ${1:-} == --help || ! -d ${1:-}/tests ]]; then
    sed -n '2,7s/^# \?//p' "${BASH_SOURCE[0]}"
    [[ ${1:-} == --help ]] && exit || exit 2
fi
tests=$(cd "$1/tests" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pytest_arguments=("${@:2}")
set --
source tools/setup_env.sh test
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# Nothing of the checkout may be imported in place of the installed Detectron2: it is not compiled.
cd "$results"
list_outcomes() {
    python -W ignore -m pytest -q -rA --tb=no --import-mode=importlib -p no:cacheprovider \
        --rootdir "$tests" "$tests" "$@" "${pytest_arguments[@]}" \
        | grep -E '^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) ' | sed 's/ - .*//' | sort -u
}
list_outcomes > without || true
list_outcomes -p d2detr > with || true
for kind in without with; do
    echo "$kind d2detr: $(cut -d' ' -f1 "$kind" | sort | uniq -c | tr -s ' \n' ' ')"
done
echo "not passed with d2detr:" && grep -vE '^(PASSED|SKIPPED)' with || echo "  none"
[[ -s with ]] || { echo "error: no test could be run."; exit 1; }
if grep '^PASSED' without | grep -vxFf with; then
    echo "error: these pass without d2detr alone."
    exit 1
fi
