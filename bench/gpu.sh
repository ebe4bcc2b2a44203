#!/bin/sh
# All that is measured on an accelerator, in one call: sh bench/gpu.sh OUT [PYTHON]. About 25 minutes on one that is fast.
# DATA names the pictures for quality over time (Fashion-MNIST unless said); what fails is told and the rest goes on.
set -u
out=$1 python=${2:-python} data=${DATA:-../shared/data/train-images-idx3-ubyte.gz}
here=$(dirname "$0")
mkdir -p "$out"
run() {
    name=$1
    shift
    echo "== $name: $*"
    "$@" >"$out/$name.log" 2>&1 || echo "$name failed; the end of $out/$name.log:" && tail -n 12 "$out/$name.log"
}
run arithmetic "$python" "$here/arithmetic.py" --compile
run arithmetic-64 "$python" "$here/arithmetic.py" adm_imagenet64 dit_b:patch=4 --side 64 --batch 64 --compile
run compiled "$python" "$here/compiled.py" "$data" "--net unet:width=64 --batch 128" "--net unet:width=128 --batch 128"
run batches "$python" "$here/quality.py" "$data" "$out/batches" "b64=--batch 64" "b128=--batch 128" "b256=--batch 256" --minutes 1
run quality "$python" "$here/quality.py" "$data" "$out/quality" "default=" --minutes 1 3 10
