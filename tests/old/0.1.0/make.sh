#!/bin/bash
# Makes the files in this folder anew, with the code of 13f361a (0.1.0, before folders moved): tests/old/0.1.0/README.md says what each is.
#
#   git worktree add --detach /srv/limbeck/code 13f361a     # and an environment with its packages in /srv/limbeck/code/.venv
#   tests/old/0.1.0/make.sh OUT
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
python() { "$CODE/.venv/bin/python" "$@"; }
limbeck() { python -m limbeck.cli.main "$@"; }

TINY=(digits-tiny --set data.private=80 --set data.public=40 --set data.test=40 --set partition.clients=2 --set run.workers=1
    --set run.seed=5 --set stages.sparsity=0.95 --set student.epochs=3 --set student.dense_control=false)

# 1. A finished run with seeded noise, and the same run stopped when the first site had answered in the second of two stages.
SEEDED=("${TINY[@]}" --set privacy.noise=UnsafeSeeded --set pooling.kind=class-counts)
limbeck simulate "${SEEDED[@]}" --out run
limbeck simulate "${SEEDED[@]}" --prepare-only --out stopped
cat > stop.py <<'PYTHON'
from pathlib import Path

from limbeck.server.events import Events
from limbeck.simulations import run

progress = Events.progress


def stop(self, phase, done, total, **facts):
    progress(self, phase, done, total, **facts)
    if (phase, done) == ("answers 2", 1):
        raise KeyboardInterrupt


if __name__ == "__main__":
    Events.progress = stop
    try:
        run.resume(Path("stopped"))
    except KeyboardInterrupt:
        pass
    else:
        raise SystemExit("not interrupted")
PYTHON
python stop.py

# 2. Two sites with three plans each, one after the other: a linear teacher and class counts, noisy votes, a net and record counts. The second
#    site's teacher is a black box, without a guarantee.
MANY=("${TINY[@]}" --set black_box.sites=1 --set privacy.budget_epsilon=60)
limbeck simulate "${MANY[@]}" --set pooling.kind=class-counts --prepare-only --out many
sed -i -E 's/^max_answers = .*/max_answers = 1000/; s/^max_bits = .*/max_bits = 200/; s/^(label_counts|record_count) = .*/\1 = true/' many/sites/*/policy.toml
python - <<'PYTHON'
import tomllib
from pathlib import Path

import tomli_w

for path in Path("many/sites").glob("*/policy.toml"):
    own = tomllib.loads(path.read_text())
    own["teachers"]["kinds"] = ["linear", "net", "votes"]
    path.write_text(tomli_w.dumps(own))
PYTHON
limbeck simulate --resume --out many
mkdir many/ledgers
cp many/sites/site-00/records.npz.ledger many/ledgers/one
limbeck simulate "${MANY[@]}" --set teacher.kind=votes --set teacher.teachers=8 --set privacy.epsilon=6 --sites many/sites --out votes
limbeck simulate "${MANY[@]}" --set teacher.kind=mlp --set teacher.steps=4 --set teacher.sampling_rate=0.3 --set pooling.kind=record-counts \
    --set privacy.label_counts_fraction=0.1 --set privacy.epsilon=5 --sites many/sites --out net
# A loss: of the first site's ledger only a backup after the first plan was left. The whole of it is kept apart.
for end in "" .head; do mv many/sites/site-00/records.npz.ledger$end many/ledgers/three$end; done
limbeck ledger declare-lost many/sites/site-00 --from many/ledgers/one --epsilon 0.25 --why "a disk was replaced" --yes

# 3. A federation over the link: tables and a public encoding, three sites, one of which declines by its policy.
PORT=17443
limbeck deploy init --server localhost --server-ip 127.0.0.1 --listen 127.0.0.1 --port $PORT --clients north,south,west --days 3650 --out federation
python - <<'PYTHON'
import random
from pathlib import Path

import numpy as np

from limbeck.client import encodings, tables

draw = random.Random(7)


def patient(sick):
    age = "" if draw.random() < 0.1 else str(draw.randint(30, 60) + 20 * sick)
    pressure = str(draw.randint(100, 140) + 25 * sick)
    return f"{age},{pressure},{draw.choice(['m', 'f'])},{draw.choice(['none', 'mild'] if not sick else ['mild', 'strong'])}"


def table(count):
    return [(patient(number % 2), number % 2) for number in range(count)]


Path("public.csv").write_text("age,pressure,sex,pain\n" + "".join(f"{row}\n" for row, _ in table(30)))
for site in ("north", "south", "west"):
    path = Path("federation/sites") / site / "records.csv"
    path.write_text("age,pressure,sex,pain,sick\n" + "".join(f"{row},{'yes' if sick else 'no'}\n" for row, sick in table(60)))
    path.chmod(0o600)
public = tables.read(Path("public.csv"), public=True)
encoding = encodings.fit_table(public, numbers=["age", "pressure"], categories=["sex", "pain"])
encodings.save(encoding, Path("encoding.json"))
np.savez("public.npz", x=encoding(public))
PYTHON
limbeck plan make digits-tiny --set name=hospitals --set teacher.features=rows --set teacher.normaliser=60.0 --set pooling.kind=class-counts \
    --set release.k=2 --set stages.count=1 --set stages.sparsity=0.6 --set privacy.epsilon=6 --set privacy.delta=1e-5 --set student.epochs=3 \
    --transfer public.npz --classes 2 --encoding encoding.json --key federation/author/plan.key \
    --out federation/coordinator/plan.pb --publish federation/coordinator/transfer-sets
author=$(limbeck keys show federation/author/plan.key | tail -1)
sed -i "s/^authors = \[\]/$author/; s/^epsilon = 1.0/epsilon = 12.5/; s/^label_counts = false/label_counts = true/; s/^max_epsilon = 0.1/max_epsilon = 2.0/; s/^minimum_clients = 3/minimum_clients = 2/" federation/sites/{north,south}/policy.toml
sed -i "s/^authors = \[\]/$author/; s/^minimum_clients = 3/minimum_clients = 2/" federation/sites/west/policy.toml
for site in north south west; do
    cp federation/coordinator/transfer-sets/* federation/sites/$site/transfer-sets/
    sed -i 's|^records = .*|records = { path = "records.csv", label = "sick", classes = ["no", "yes"], encoding = "transfer-sets/encoding.json" }|' federation/sites/$site/site.toml
    limbeck site run federation/sites/$site > $site.log 2>&1 &
done
(cd federation/coordinator && limbeck serve plan.pb --settings coordinator.toml)
kill $(jobs -p)
wait

# 4. Texts through a public encoder of one's own, and records that were encoded ahead of a plan.
mkdir -p texts/site
cat > texts/site/letters.py <<'PYTHON'
"""A frozen encoder: how often the letters a to h occur, on a scale of norm 1."""

import numpy as np


def build():
    def encode(text):
        row = np.array([1 + text.lower().count(letter) for letter in "abcdefgh"], np.float32)
        return row / np.linalg.norm(row)

    return encode
PYTHON
cd texts
printf 'text\nA good film.\nbad; a dead end\nface the edge\n' > public.csv
printf 'text,label\nhe had a bad dad,0\nfeed the cabbage,1\n' > site/records.csv
(cd site && limbeck plan encode ../public.csv --encoder letters:build --name letters --out ../public.npz --encoding encoding.json)
cat > site/site.toml <<'TOML'
name = "reader"
records = { path = "records.csv", label = "label", encoding = "encoding.json", encoder = "letters:build" }
transfer_sets = "transfer"
cache = "cache"
TOML
limbeck site encode site
cd ..

# What is kept of it. Left out: what is made again (the report), what would only be there twice, and keys that nobody needs.
rm -rf "$OUT"/{run,stopped,many,federation,texts}
rm -rf run/report.html run/server/student/student.{onnx,safetensors} run/server/checkpoints/stage-000.safetensors {stopped,many}/cache many/{report.html,metrics.json,server,flower,author.pem} many/sites/*/model.joblib
rm -rf federation/{authority,author,sites/south,sites/west} texts/encoded
find . '(' -name '*.lock' -size 0 -o -name '*-shm' ')' -delete
find . -name __pycache__ -prune -exec rm -rf {} +
cp -r run stopped many federation texts "$OUT/"
