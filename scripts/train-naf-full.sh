#!/usr/bin/env bash
# NAF's whole recipe in one go, on whatever accelerate finds: stage 1 (25,000 steps at 512 px), stage 2 (2,500
# steps at 1024 px), held-out scores of both. Leaves in OUT: stage1/ and stage2/ (log.jsonl, previews/, best/,
# weights/ with card), summary1.json and summary2.json (steps, seconds, images per second, peak memory), scores.json.
# Started again after an interruption, it goes on where it was.
#
#   scripts/train-naf-full.sh TRAIN_IMAGES HELD_OUT_IMAGES OUT [BACKBONE [OPTION...]]
#
# OPTIONs go to both stages (--backbone-weights FILE, --set batch=8, ...). STEPS1, STEPS2 and LAUNCH (for example
# "accelerate launch") may be set in the environment.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,11p' "$0" >&2; exit 2; }
images=$1 held_out=$2 out=$3 backbone=${4:-dinov3_b}
shift $(($# < 4 ? 3 : 4))
launch=${LAUNCH:-python}
mkdir -p "$out"

train() {  # recipe, steps, folder of the run, summary, more options
  local recipe=$1 steps=$2 run=$3 summary=$4
  shift 4
  $launch -m naf_hub train reconstruction --recipe "$recipe" --upsampler naf --backbone "$backbone" \
    --images "$images" --held-out "$held_out" --out "$run" --resume --json \
    --set "steps=$steps" --set "workers=${WORKERS:-8}" "$@" > "$summary.part"
  mv "$summary.part" "$summary"
}

train naf-code "${STEPS1:-25000}" "$out/stage1" "$out/summary1.json" "$@"
train naf-paper-stage2 "${STEPS2:-2500}" "$out/stage2" "$out/summary2.json" --set "init=$out/stage1/weights" "$@"

python - "$out" <<'PY'
import json, sys
from pathlib import Path

out = Path(sys.argv[1])
for stage in (1, 2):
    s = json.loads((out / f"summary{stage}.json").read_text())
    print(f"stage {stage}: {s['steps']} steps in {s['seconds']:.0f} s, {s['steps'] / max(s['seconds'], 0.1):.2f} steps/s, "
          f"{s['images_per_second']} images/s, peak {s['peak_memory_bytes'] / 2**30:.2f} GiB on {s['device']}")
    for backbone, figures in (s["held_out"] or {}).items():
        print(f"  {backbone}: {figures['ratio_to_bilinear']:.4f} of bilinear's held-out error")
PY
