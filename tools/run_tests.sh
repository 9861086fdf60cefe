#!/usr/bin/env bash
# Makes the environment and runs the tests; arguments go to pytest: bash tools/run_tests.sh -x
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/show_help.sh
source tools/setup_env.sh test
# Two processes with a thread each: most tests are too small to keep two threads busy, or wait.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
