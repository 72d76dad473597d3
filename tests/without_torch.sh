#!/usr/bin/env bash
# `python -m scheduler` plans and checks in a fresh environment that has neither torch nor flwr,
# only what scheduler/ itself imports. Run by `make lean`; PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

problem=$PWD/tests/data/transformer-m4.json
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

export PIP_CONSTRAINT=$PWD/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
${PYTHON:-python3} -m venv "$folder/venv"
python=$folder/venv/bin/python
rm -rf build/lib # setuptools packs modules of older builds that still lie there
"$python" -m pip install --quiet pulp highspy numpy pydantic typer rich matplotlib
"$python" -m pip install --quiet --no-deps .

# From here on the installed package is used, not the checkout.
cd "$folder"
export XDG_CACHE_HOME=$folder/cache

fail() {
	echo "tests/without_torch.sh: $1" >&2
	exit 1
}

# ends CODE TEXT ARGUMENT... : the command ends with that exit code and prints that text.
ends() {
	local want=$1 text=$2 code=0
	shift 2
	"$python" -m scheduler "$@" >out.txt 2>&1 || code=$?
	if [[ $code != "$want" ]] || ! grep -q -- "$text" out.txt; then
		cat out.txt >&2
		fail "'scheduler $*' ended with $code and should end with $want and say '$text'"
	fi
}

"$python" - <<'PYTHON' || fail "the environment is not what it should be"
import importlib.util
import scheduler
from pathlib import Path

for absent in ("torch", "flwr", "grpc", "google.protobuf"):
    try:
        found = importlib.util.find_spec(absent)
    except ModuleNotFoundError:
        found = None
    assert found is None, f"{absent} is installed"
assert Path(scheduler.__file__).is_relative_to(Path.cwd() / "venv"), scheduler.__file__
PYTHON

ends 0 nrf52840 devices
ends 0 "GradientLayer.17" floor --problem "$problem" --time-limit 10
ends 0 optimal plan --problem "$problem" --ram 32MB --time-limit 20 --out plan.json --html plan.html
ends 0 "every rule holds" check plan.json --problem "$problem"
ends 4 floor plan --problem "$problem" --ram 1KB
ends 2 "cannot read nothing.json" plan --problem nothing.json
[[ -s plan.html ]] || fail "plan.html is empty"
echo "python -m scheduler works without torch and flwr"
