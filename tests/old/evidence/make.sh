#!/bin/bash
# Makes the files in this folder anew, with the code of the commit that README.md names.
#
#   git worktree add --detach /srv/limbeck/code COMMIT     # and an environment with its packages in /srv/limbeck/code/.venv, and .types
#   tests/old/evidence/make.sh tests/old/evidence
#
# It works in /srv/limbeck/made, because files name the place where they were made, and that is no place of anybody's.
set -euo pipefail
OUT=$(realpath "$1")
MADE=/srv/limbeck/made
CODE=/srv/limbeck/code
rm -rf "$MADE"
mkdir -p "$MADE"
cd "$MADE"
export PYTHONPATH="$CODE/.types" OMP_NUM_THREADS=1

# Two sites of digits with noise from the operating system; ridge and temperature from public facts; the classes do not all count alike.
"$CODE/.venv/bin/python" -m limbeck.cli.main simulate digits-tiny --out run --set data.private=80 --set data.public=40 --set data.test=40 \
    --set partition.clients=2 --set run.workers=1 --set run.seed=5 --set stages.sparsity=0.95 --set student.epochs=3 \
    --set student.dense_control=false --set compare.central=false --set teacher.kind=evidence --set teacher.normaliser=40.0 \
    --set 'teacher.class_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.1]' --set stages.temperature=auto --set pooling.kind=mean

# What is kept of it: not what is made again from the rest.
rm -rf "$OUT/run" run/{report.html,cache,flower,author.pem,central,student} run/server/{student,features,checkpoints/stage-000.safetensors}
find . '(' -name '*.lock' -size 0 -o -name '*-shm' ')' -delete
cp -r run "$OUT/"
