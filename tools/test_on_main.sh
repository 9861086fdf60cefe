#!/usr/bin/env bash
# Runs the tests of what d2detr expects of Detectron2 on its main branch:
#   DETECTRON2_MAIN=CHECKOUT bash tools/test_on_main.sh [ARGUMENTS OF PYTEST]
# CHECKOUT is a clone of Detectron2's main, which is compiled there if it is not yet. Without one, or
# without a C++ compiler, it says so and succeeds.
set -euo pipefail
if [[ ${1:-} == --help ]]; then
    sed -n '2,5s/^# \?//p' "${BASH_SOURCE[0]}"
    exit
fi
skip() {
    echo "Detectron2's main is not tested: $*"
    exit 0
}
[[ -n ${DETECTRON2_MAIN:-} ]] || skip "DETECTRON2_MAIN names no checkout of it."
main=$(cd "$DETECTRON2_MAIN" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pytest_arguments=("$@")
set --
source tools/setup_env.sh test
if ! compgen -G "$main/detectron2/_C*.so" > /dev/null; then
    command -v "${CXX:-c++}" > /dev/null || skip "it is not compiled, and there is no C++ compiler."
    (cd "$main" && python setup.py --quiet build_ext --inplace)
fi
export PYTHONPATH=$main:$PWD
python -c "
import detectron2, sys
sys.exit(not detectron2.__file__.startswith(sys.argv[1]) and f'{detectron2.__file__} is in use')
" "$main"
python -m pytest tests/test_compat.py tests/compat tests/data tests/engine tests/evaluation \
    tests/modeling/test_meta_arch.py "${pytest_arguments[@]}"
