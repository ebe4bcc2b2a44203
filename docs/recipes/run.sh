#!/usr/bin/env bash
# The trainings and the pictures of the pages beside this file:   bash docs/recipes/run.sh DATA [NAME ...]
#
# DATA is a folder with train-images-idx3-ubyte.gz (and its labels), cars.zip, cifar10.zip and brain-mri.zip. What was begun is
# gone on with. Lengths and batches are for two cores of a CPU; FULL=1 takes those of the accounts, for a GPU.
set -euo pipefail
data=$1
shift
[ $# -gt 0 ] || set -- fashion-mnist cars aircraft cifar10 cifar10-ship oasis
runs=runs/recipes
pages=$(dirname "$0")

train() { # RUN "SHORT" ARGUMENTS...: with the flags SHORT unless FULL
  local run=$runs/$1 short=$2
  shift 2
  [ -z "${FULL:-}" ] || short=""
  # shellcheck disable=SC2086  # several words
  sfumato train "$@" $short --run "$run"
}

look() { # PAGE RUN: the pictures of a page
  local page=$pages/$1 run=$runs/$2
  mkdir -p "$page"
  sfumato sample "$run" -n 64 --gif --halfway
  sfumato show denoising "$run" --out "$page/denoising.png"
  cp "$run/out/s0-grid.png" "$page/samples.png"
  cp "$run/out/s0-grid.gif" "$page/samples.gif"
  cp "$run/out/s0-halfway.png" "$page/halfway.png"
}

beside() { # PAGE DATA RUN...: real pictures, then those of each run from the same noise
  local page=$pages/$1 source=$2 paths=()
  shift 2
  for run in "$@"; do paths+=("$runs/$run"); done
  sfumato show loss "${paths[@]}" --by step --out "$page/loss.png"
  python docs/figures/real_and_generated.py "$source" "$page/question.png" "${paths[@]}"
}

fashion-mnist() {
  local source=$data/train-images-idx3-ubyte.gz limit=55m
  [ -z "${FULL:-}" ] || limit=0 # never
  for treatment in "" --faithful; do # the learning rate is that of ten epochs, so the run is stopped, not shortened
    # shellcheck disable=SC2086
    timeout --signal=INT $limit sfumato train "$source" --recipe fashion-mnist $treatment --log-every 1600 \
      --run "$runs/fashion-mnist${treatment:1}" || [ $? = 124 ]
  done
  look fashion-mnist fashion-mnist
  beside fashion-mnist "$source" fashion-mnist-faithful fashion-mnist
  python docs/figures/published.py fashion-mnist "$runs/fashion-mnist-faithful" "$runs/fashion-mnist"
}

cars() {
  train cars "--images 10880" "$data/cars.zip" --recipe cars --log-every 128
  train cars-faithful "--images 10880" "$data/cars.zip" --recipe cars --faithful --log-every 128
  look cars cars
  beside cars "$data/cars.zip" cars-faithful cars
  python docs/figures/published.py cars "$runs/cars-faithful" "$runs/cars"
}

aircraft() { # on cars, which have no strip
  train aircraft "--images 2400 --batch 15" "$data/cars.zip" --recipe aircraft --cut-bottom 0
  look aircraft aircraft
  sfumato show loss "$runs/aircraft" --by step --out "$pages/aircraft/loss.png"
  python docs/figures/published.py aircraft "$runs/aircraft"
}

cifar10() {
  train cifar10 "--images 12800 --batch 64" "$data/cifar10.zip" --recipe cifar10
  train cifar10-faithful "--images 12800 --batch 64" "$data/cifar10.zip" --recipe cifar10 --faithful
  look cifar10 cifar10
  beside cifar10 "$data/cifar10.zip" cifar10-faithful cifar10
}

cifar10-ship() {
  train cifar10-ship "--images 7200 --batch 64" "$data/cifar10.zip" --recipe cifar10-ship --from "$runs/cifar10"
  look cifar10-ship cifar10-ship
  beside cifar10-ship "$data/cifar10.zip" cifar10 cifar10-ship
}

oasis() {
  train oasis-64 "--images 5k --batch 16" "$data/brain-mri.zip" --recipe oasis --size 64
  train oasis "--images 1280 --batch 8" "$data/brain-mri.zip" --recipe oasis --from "$runs/oasis-64"
  look oasis oasis
  look oasis/64 oasis-64
  sfumato show loss "$runs/oasis-64" "$runs/oasis" --by step --out "$pages/oasis/loss.png"
  python docs/figures/published.py oasis "$runs/oasis"
}

for name in "$@"; do "$name"; done
