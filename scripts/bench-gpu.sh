#!/usr/bin/env bash
# All figures of the paper's efficiency comparison (table 1, figures 12 and 13) for every learned upsampler that takes
# plain features, in one go: forward and training step over ratio and channels, operations, peak memory, and the largest
# ratio under 40 GiB, all in float32, TF32 and bfloat16; NAF also compiled and as a CUDA graph. Leaves in OUT reports (.json),
# tables (.md) and plots (.png). What is there already is not run again; one that fails has a remark in its row.
#
#   scripts/bench-gpu.sh OUT
#
# From the environment: DEVICE, UPSAMPLERS, DTYPES, RATIOS, CHANNELS, FEATURES, IMAGE, LIMIT, REPEATS, WARMUP, MODES
# ("compile graph"), LAUNCH (default "naf-hub").
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,11p' "$0" >&2; exit 2; }
out=$1
device=${DEVICE:-cuda}
read -ra upsamplers <<< "${UPSAMPLERS:-naf naf_local naf_small naf_plus_plus jafar anyup loftup featup_jbu uplift carafe sapa dysample}"
read -ra dtypes <<< "${DTYPES:-float32 tf32 bfloat16}"
read -ra modes <<< "${MODES-compile graph}"
read -ra launch <<< "${LAUNCH:-naf-hub}"
mkdir -p "$out"

bench() {  # name of the files, then arguments
  local file=$out/$1
  shift
  [ -s "$file.json" ] && return
  "${launch[@]}" bench "$@" --device "$device" --features "${FEATURES:-384,28,28}" --image "${IMAGE:-448}" \
    --warmup "${WARMUP:-5}" --repeats "${REPEATS:-10}" --sweep "ratio=${RATIOS:-2,4,8,16,32}" \
    --sweep "channels=${CHANNELS:-128,384,768,1024}" --format markdown --plot "$file.png" --save "$file.json.part" \
    > "$file.md"
  mv "$file.json.part" "$file.json"
}

for dtype in "${dtypes[@]}"; do
  bench "$dtype" "${upsamplers[@]}" --dtype "$dtype" --backward --flops
done
for mode in "${modes[@]}"; do
  case $mode in
    compile) bench compile naf --dtype bfloat16 --compile ;;
    graph) bench graph naf --dtype bfloat16 --cuda-graph ;;
    *) echo "no mode $mode: compile, graph" >&2; exit 2 ;;
  esac
done
for dtype in "${dtypes[@]}"; do  # guided by an image of the output's size, whatever IMAGE is
  file=$out/largest-$dtype
  [ -s "$file.json" ] && continue
  "${launch[@]}" bench "${upsamplers[@]}" --device "$device" --features "${FEATURES:-384,28,28}" --size "${IMAGE:-448}" \
    --dtype "$dtype" --repeats 1 --largest-ratio "${LIMIT:-40GiB}" --format markdown --save "$file.json.part" > "$file.md"
  mv "$file.json.part" "$file.json"
done
