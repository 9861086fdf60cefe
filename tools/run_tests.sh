#!/usr/bin/env bash
# Makes the environment and runs the tests; arguments go to pytest: bash tools/run_tests.sh -x
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/show_help.sh
source tools/setup_env.sh test
python -m pytest "$@"
