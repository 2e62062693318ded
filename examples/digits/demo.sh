#!/usr/bin/env bash
# From a pipeline file to a served model, in three runs on a platform of its own:
#
#   1. everything runs: validate, features, a search, training, evaluation, the
#      gate, the registry, an endpoint; then real predictions are checked;
#   2. nothing has changed, so every step comes from the cache;
#   3. a worse model is refused, and the endpoint goes on as before.
#
# Needs bin/drover and the plugins beside it (make build), and Python 3.9+.
# State and ports are its own; when it ends, nothing is left running.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
drover=${DROVER:-$here/../../bin/drover}
python=${PYTHON:-python3}
unset DROVER_TOKEN DROVER_WORKSPACE
export PYTHONDONTWRITEBYTECODE=1

[ -x "$drover" ] || { echo "demo: no $drover: run make build first" >&2; exit 1; }
state=$(mktemp -d "${TMPDIR:-/tmp}/drover-demo.XXXXXX")
dev=

cleanup() {
	local code=$?
	trap '' INT TERM
	if [ -n "$dev" ]; then
		kill -INT "$dev" 2>/dev/null || true # ends tasks, too: -stop-tasks
		wait "$dev" 2>/dev/null || true
	fi
	if [ "$code" -ne 0 ] && [ -e "$state/dev.log" ]; then
		echo "demo: failed; the end of the platform's log:" >&2
		tail -n 20 "$state/dev.log" >&2
	fi
	rm -rf "$state"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '\n==> %s\n\n' "$*"; }
fail() { echo "demo: $*" >&2; exit 1; }
# field PROGRAM: what a Python expression makes of the JSON on standard input.
field() { "$python" -c "import json, sys; v = json.load(sys.stdin); print($1)"; }
last_run() { "$drover" runs -limit 1 -json | field 'v[0]["id"]'; }
endpoint() { "$drover" endpoints show digits -json | field '"%s version %d, revision %d, %s" % (v["model"], v["version"], v["revision"], v["status"])'; }
check() { "$python" "$here/src/check.py" "$DROVER_GATEWAY" "$state/holdout.csv" --rows 359; }

say "Starting the platform: devcluster, orchestrator and gateway"
# The platform writes its addresses to fd 4 once all is up. If it ends before,
# reading them ends, too.
exec 3< <(exec "$drover" dev -data-dir "$state/data" -stop-tasks -ready-file /dev/fd/4 \
	-listen 127.0.0.1:0 -gateway-listen 127.0.0.1:0 -devcluster-listen 127.0.0.1:0 \
	4>&1 >"$state/dev.log" 2>&1)
dev=$!
while IFS='=' read -r -t 60 name value <&3; do
	export "$name=$value"
	echo "$name=$value"
	[ "$name" = NOMAD_ADDR ] && break
done
[ -n "${DROVER_ADDR:-}" ] && [ -n "${DROVER_GATEWAY:-}" ] || fail "the platform did not come up"

say "1. The first run does everything"
"$drover" run "$here/pipeline.hcl"
first=$(last_run)

say "Predictions through the gateway, on digits that training has not seen"
"$drover" artifacts get "$first" step.features holdout -out "$state/holdout.csv"
head -n 1 "$state/holdout.csv" | "$python" -c '
import json, sys
*pixels, label = map(int, sys.stdin.readline().split(","))
print("One picture, labelled %d:" % label, file=sys.stderr)
print(json.dumps({"inputs": [{"name": "image", "shape": [1, 64], "datatype": "FP32", "data": pixels}], "outputs": [{"name": "digit"}]}))
' >"$state/request.json"
"$drover" predict digits -input "$state/request.json"
check

say "2. The second run: nothing has changed, so no step runs again"
"$drover" run "$here/pipeline.hcl"
second=$(last_run)
ran=$("$drover" status -json "$second" | field '[n["id"] for n in v["nodes"] if n["kind"] == "step" and not n.get("cached_from")]')
[ "$ran" = "[]" ] || fail "these steps ran again: $ran"
before=$(endpoint)

say "3. The third run: a learning rate that spoils the model; the gate refuses it"
if "$drover" run -var learning_rate_scale=0.001 -var epochs=1 "$here/pipeline.hcl"; then
	fail "a bad model passed the gate"
fi
third=$(last_run)
refused=$("$drover" status -json "$third" | field '[n["id"] for n in v["nodes"] if n["kind"] == "gate" and n["phase"] == "failed"]')
[ "$refused" = "['gate.accuracy']" ] || fail "the run failed, but not because the gate refused the model"
after=$(endpoint)
[ "$before" = "$after" ] || fail "the endpoint changed: $before, then $after"
echo
echo "The endpoint is untouched: $after"
check

say "Summary"
echo "Run 1 trained a model, run 2 took everything over from the cache, run 3 was refused:"
echo
"$drover" runs
echo
echo "What run 3 did differently:"
echo
"$drover" compare "$first" "$third"
echo
echo "The champion, and where it comes from:"
echo
"$drover" models show digits champion
echo
"$drover" artifacts show "$first" step.train model
echo
echo "It was served at $DROVER_GATEWAY/v2/models/digits/infer; all state was in $state."
echo "The demo took ${SECONDS} s. To keep such a platform running: make dev"
