#!/usr/bin/env bash
# Does the wheel work where nothing else is? Installs it with its base dependencies only into an empty environment, starts a worker
# there, and runs a model over it from the environment that PYTHON belongs to.
#   tools/check_dist.sh PYTHON     after `make dist`; dist/ holds one wheel and one sdist
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
root=$PWD
place=$(mktemp -d)
worker=
trap 'if [ -n "$worker" ]; then kill "$worker" 2>/dev/null || true; fi; rm -rf "$place"' EXIT

wheels=(dist/*.whl) sdists=(dist/*.tar.gz)
[ ${#wheels[@]} = 1 ] && [ -e "${wheels[0]}" ] && [ ${#sdists[@]} = 1 ] && [ -e "${sdists[0]}" ]

# The sdist holds what a wheel is built from: no links that lead out of it.
tar -tzf "${sdists[0]}" --wildcards '*/fogconv/kernels/conv/direct.py' >/dev/null

"$python" -m venv "$place/empty"
"$place/empty/bin/pip" install -q -c constraints.txt "${wheels[0]}"
if "$place/empty/bin/python" -c 'import torch' 2>/dev/null; then
    echo "torch came along with the base dependencies" >&2
    exit 1
fi

# From another folder, so that the wheel's code is imported and not this one's.
cd "$place"
"$place/empty/bin/fogconv-worker" --bind "ipc://$place/worker" >worker.log 2>&1 &
worker=$!
for _ in $(seq 60); do
    [ -S "$place/worker" ] && break
    sleep 0.5
done
PYTHONPATH=$root "$python" -m fogconv run resnet18 --weights random --threshold 0 --no-adapt --repeat 1 --compare --json \
    --cluster "ipc://$place/worker" >run.json
"$python" - run.json <<'CHECK'
import json
import sys

run = json.load(open(sys.argv[1]))
assert run["workers"] == 1 and not run["events"], run["events"]
assert sum(layer["distributed"] for layer in run["layers"]) > 0, "no layer was distributed"
assert run["max_abs_error"] < 1e-3 * max(1.0, run["max_abs_reference"]), run["max_abs_error"]
print(f"a worker from the wheel took part in a run; the largest error is {run['max_abs_error']:.2g}")
CHECK
kill -TERM "$worker"
wait "$worker" || true
worker=
