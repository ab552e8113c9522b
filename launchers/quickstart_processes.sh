#!/bin/sh
# The quickstart on this machine, two processes at a time; run it again to go on where it stopped.
#   launchers/quickstart_processes.sh CRAWL ITEMS LANGUAGE_MODEL [RUN_DIR]
set -eu
[ $# -ge 3 ] || { echo "usage: $0 CRAWL ITEMS LANGUAGE_MODEL [RUN_DIR]" >&2; exit 2; }

tokenmill run quickstart --run-dir "${4:-runs/quickstart}" --executor processes \
    --set "inputs.crawl=$1" --set "inputs.items=$2" --set "inputs.language_model=$3"
