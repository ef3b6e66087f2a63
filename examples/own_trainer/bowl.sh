#!/usr/bin/env bash
# No Python: a program that answers a loss as a line of JSON. It stands for a trainer in C++, Julia or Rust.
# Its loss is a formula with a known answer: the best rate is 0.008 times (64 / width) ^ 0.5.
set -euo pipefail
width=$1 lr=$2 seed=$3
awk -v width="$width" -v lr="$lr" -v seed="$seed" 'BEGIN {
  srand(1000 * seed + width + int(1e5 * lr))
  best = 0.008 * sqrt(64 / width)
  octaves = log(lr / best) / log(2)
  noise = 0.004 * (rand() - 0.5)
  printf "{\"loss\": %.6f}\n", 2 * width ^ -0.3 + 0.02 * octaves ^ 2 + noise
}'
