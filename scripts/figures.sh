#!/bin/sh
# The runs behind the README's pictures and tables, and the pictures themselves. Two streams of runs, one core each, so
# that they never share one. MFRUN_DATA names the folder that holds MNIST in torchvision's layout.
set -eu
cd "$(dirname "$0")/.."
OUT=outputs/figures
pin() { core=$1; shift; if command -v taskset >/dev/null; then taskset -c "$core" "$@"; else "$@"; fi; }
sweep() { core=$1; name=$2; shift 2
    # An unfinished sweep goes on where it was.
    resume=false; [ ! -e "$OUT/$name/sweep.yaml" ] || resume=true
    pin "$core" mfrun sweep "$@" threads=1 "dir=$OUT/$name" "resume=$resume"; }

mkdir -p "$OUT" docs
(
    sweep 0 gaussians dataset=gaussians depth=5 'widths=[50,100,200,400,800,inf]' steps=30000 replicates=4
    sweep 0 mnist_figure6 dataset=mnist depth=4 'widths=[100,200,400,800]' steps=10000
) &
first=$!
sweep 1 mnist_4layers dataset=mnist depth=4 'widths=[100,200,400,inf]' steps=100000 replicates=2 \
    particles.first=1024
sweep 1 mnist_3layers dataset=mnist depth=3 'widths=[100,200,400,inf]' steps=15000 replicates=4 \
    particles.first=1024 particles.last=512
wait "$first"

picture() { mfrun plot "$OUT/$1" --out "docs/$1.png" --title "$2"; }
picture mnist_figure6 'MNIST, 4 layers (Figure 6, middle row)'
picture gaussians 'Isotropic Gaussians, 5 layers (Figure 5, top row)'
picture mnist_3layers 'MNIST, 3 layers'
picture mnist_4layers 'MNIST, 4 layers'
mfrun plot "$OUT/gaussians" --metrics nonpositive --out docs/gaussians_nonpositive.png
compare() { mfrun compare "$OUT/$1" --metrics "$2" --steps "$3" && cp "$OUT/$1/compare.png" "docs/$1_compare.png"; }
compare gaussians population_loss,population_error 100,1000,10000,30000
compare mnist_3layers test_loss,test_error 100,300,1000,3000,10000
compare mnist_4layers test_loss,test_error 100,1000,3000,10000,30000,100000
mfrun statics "$OUT/gaussians/width=inf" && cp "$OUT/gaussians/width=inf/statics.png" docs/gaussians_statics.png
