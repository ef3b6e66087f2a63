#!/bin/bash
# One sweep on a Ray cluster that is there:  deploy/ray-job-submit.sh SWEEP [OVERRIDES ...]
# The job's working folder is a copy of this one and goes when the job ends, so results and
# checkpoints lie in a folder that every node sees. See deploy/README.md.
set -euo pipefail

: "${DASHBOARD:?Set DASHBOARD to the address of the cluster, e.g. http://head:8265}"
: "${SHARED:?Set SHARED to a folder that every node of the cluster sees}"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [ ! -r "$RAY_AUTH_TOKEN_PATH" ]; then
    echo "The cluster's token must be in RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH." >&2
    exit 2
fi

exec ray job submit --address "$DASHBOARD" --working-dir . -- \
    hptransfer sweep "${1:-quickstart}" --results="$SHARED/results" runtime=cuda \
    executor=ray executor.address=auto executor.storage="$SHARED/checkpoints" "${@:2}"
