#!/bin/sh
# The quickstart on a SLURM cluster: look at the plan, submit everything, watch. RUN_DIR lies on shared storage.
#   launchers/quickstart_slurm.sh SITE RUN_DIR CRAWL ITEMS LANGUAGE_MODEL
set -eu
[ $# -eq 5 ] || { echo "usage: $0 SITE RUN_DIR CRAWL ITEMS LANGUAGE_MODEL" >&2; exit 2; }
site=$1 run=$2
shift 2
set -- quickstart --run-dir "$run" --executor slurm --site "$site" \
    --set "inputs.crawl=$1" --set "inputs.items=$2" --set "inputs.language_model=$3"

tokenmill plan "$@"
tokenmill run "$@"
