#!/bin/bash
# A search of iKUN on a Ray cluster of three hosts, with S3, PostgreSQL and an MLflow server. One host is killed in
# the middle; the sweep ends as if nothing had happened, and its best trial is promoted.
#
#     examples/cluster.sh [FOLDER]        everything goes into FOLDER, ./refsweep-cluster by default
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
folder=${1:-./refsweep-cluster}

if [ -z "${REFSWEEP_DASHBOARD:-}" ]; then # a cluster first; it runs this script again and ends with it
  exec refsweep cluster local --hosts 3 --folder "$folder" -- "$0" "$folder"
fi

step() { printf '\n\033[1m%s\033[0m\n' "+ $*" >&2 && "$@"; }

spec=(examples/ikun.yaml
  --set name=ikun-cluster --set data='made:refer-kitti?videos=10'
  --set storage="$REFSWEEP_STORAGE" --set ledger="$REFSWEEP_LEDGER" --set tracking="$MLFLOW_TRACKING_URI"
  --set search.trials=5 --set search.startup=3 --set fixed.epochs=4)
there=(--storage "$REFSWEEP_STORAGE" --ledger "$REFSWEEP_LEDGER")

step refsweep sweep submit "${spec[@]}" --cluster "$REFSWEEP_DASHBOARD"
refsweep sweep logs ikun-cluster --cluster "$REFSWEEP_DASHBOARD" --follow &
follows=$!

until refsweep sweep status ikun-cluster "${there[@]}" --json | grep -q '"epoch": [1-9]'; do sleep 2; done
step kill -TERM "$(cat "$folder/hosts/1.pid")" # its guard kills all of the host at once, by SIGKILL
wait $follows || true

step refsweep sweep status ikun-cluster "${there[@]}"
step refsweep model promote ikun-cluster "${there[@]}"
step refsweep model show ikun "${there[@]:0:2}"
