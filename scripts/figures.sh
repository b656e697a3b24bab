#!/bin/sh
# The runs behind the README's and docs/figures.md's pictures and tables, and the pictures themselves, in four sizes. All
# go on where they were, and each writes the page, which takes the longest sweep that it finds of every figure, and
# keeps what a longer one, on another machine, has left in docs/figures/NAME.json.
#
#     sh scripts/figures.sh minutes  every figure cut to half a per cent of its steps, small widths: that all of it works
#     sh scripts/figures.sh hours    what a laptop does in over an hour, one core a run; the default
#     sh scripts/figures.sh full     every dense figure to its last step: real widths to 800 (Figures 1 and 8b: 1600),
#                                    larger ones stood for by 256 neurons (CIFAR-10: 1024 in layer 1); Figure 12 with
#                                    the widths that a core has hours for, Figure 11 on other features; many hours on
#                                    two cores. With the names of presets behind it, those alone
#     sh scripts/figures.sh gpu      every figure as its preset has it, one run at a time
#
# MFRUN_DATA names the folder that holds MNIST and CIFAR-10 in torchvision's layout; where CIFAR names an .npz of images
# (docs/data.md), all but gpu take that for CIFAR-10, and CIFAR_IS says in words what they are. OUT is the folder of the
# runs (outputs/figures).
# Words of several keys are split on purpose.
# shellcheck disable=SC2046,SC2086
set -eu
cd "$(dirname "$0")/.."
OUT=${OUT:-outputs/figures}
mkdir -p "$OUT" docs
SIZE=${1:-hours}
[ $# -eq 0 ] || shift
resume() { [ -e "$OUT/$1/sweep.yaml" ] && echo true || echo false; }

if [ "$SIZE" = gpu ]; then
    mfrun data cifar10_vgg16 || echo "cifar10_vgg16: no features" >&2
    # A data set that is missing must not keep the other figures from running; the page says what was not run.
    for file in conf/figure/*.yaml; do
        name=$(basename "$file" .yaml)
        mfrun sweep "+figure=$name" "dir=$OUT/gpu/$name" "resume=$(resume "gpu/$name")" ||
            echo "$name: not finished" >&2
    done
    exec python scripts/figures_page.py --runs "$OUT" --data "${CIFAR_IS:-}"
fi

pin() { core=$1; shift; if command -v taskset >/dev/null; then taskset -c "$core" "$@"; else "$@"; fi; }
sweep() { core=$1; name=$2; shift 2
    pin "$core" mfrun sweep "$@" threads=1 "dir=$OUT/$name" "resume=$(resume "$name")"; }
# Fewer particles serve a picture.
few='particles.first=1024 particles.last=512'
# A preset cut short.
short() { core=$1; name=$2; shift 2
    sweep "$core" "short/$name" "+figure=$name" $few "$@"; }

# Keys that put the .npz in the place of a preset's CIFAR-10, and that name VGG16's features before its training.
if [ -n "${CIFAR:-}" ]; then
    images="dataset=arrays dataset.path=$CIFAR loss=cross_entropy"
    vgg16="arrays_vgg16 dataset.source.path=$CIFAR dataset.weights=untrained dataset.size=64"
else
    images='' vgg16='cifar10_vgg16 dataset.weights=untrained dataset.size=64'
fi
has_images() { [ -n "$images" ] || [ -e "${MFRUN_DATA:-data}/cifar-10-batches-py" ]; }
# A figure in full: real widths and the limit, and those that are stood for, to 10^12, in a folder of the same figure.
core_of() { case $1 in fig8* | fig9 | fig10c | fig11 | fig12) echo 1 ;; *) echo 0 ;; esac; }
keys_of() { [ "$(core_of "$1")" = 0 ] || echo "$images"; }
# CIFAR-10 has four times as many inputs, and its limit half the particles.
few_of() { [ "$(core_of "$1")" = 0 ] && echo "$few" || echo particles.first=512 particles.last=256; }
real() { name=$1; shift; sweep "$(core_of "$name")" "full/$name" "+figure=$name" $(keys_of "$name") $(few_of "$name") \
    "$@"; }
stand_ins() { name=$1; shift; sweep "$(core_of "$name")" "full/$name/stand_ins" "+figure=$name" $(keys_of "$name") \
    neurons=256 'widths=[1600,2400,1e12]' "$@"; }
# Layer 1 has the law of weights of 784 or 3072 dimensions to represent (docs/width.md).
wide_stand_ins() { name=$1; shift; sweep "$(core_of "$name")" "full/$name/stand_ins_1024" "+figure=$name" \
    $(keys_of "$name") neurons=256 stand_in.first=1024 'widths=[1600,1e12]' "$@"; }
# The runs that a figure shares with another are trained once, there; a third word names a folder that it does without.
shares() {
    in_full "$2" && rm -rf "$OUT/full/$1/$2.part"
    [ -e "$OUT/full/$1/$2" ] ||
        { cp -r "$OUT/full/$2" "$OUT/full/$1/$2.part" && rm -rf "$OUT/full/$1/$2.part/${3:-none}" &&
            mv "$OUT/full/$1/$2.part" "$OUT/full/$1/$2"; }
}
# Beside a figure, what linear theory makes of so many of its first steps.
predicted() { pin 0 mfrun predict "+figure=$1" "budget=$2" predict.first=256 predict.tested=1 threads=1 \
    "dir=$OUT/predicted/$1" "resume=$(resume "predicted/$1")"; }
in_full() {
    case $1 in
    fig5_top) real "$1" 'widths=[50,100,200,400,800,inf]' && predicted "$1" 0.1 ;;
    fig5_bottom) real "$1" init.tau2=3 'widths=[50,100,200,400,800,inf]' && shares "$1" fig5_top ;;
    fig10a) real "$1" 'widths=[50,100,200,400,800,inf]' ;;
    fig6a) real "$1" 'widths=[100,200,400,800,inf]' && stand_ins "$1" && predicted "$1" 0.02 ;;
    fig6b | fig10b) real "$1" 'widths=[100,200,400,800,inf]' && stand_ins "$1" ;;
    # Figures 6c and 8b have both kinds.
    fig6c) real "$1" 'widths=[100,200,400,800,inf]' && stand_ins "$1" && wide_stand_ins "$1" ;;
    fig7) real "$1" init.tau2=2 'widths=[100,200,400,800,inf]' && stand_ins "$1" init.tau2=2 && shares "$1" fig6b ;;
    # One real network of n = 1600 beside that which stands for it, here and in Figure 8b.
    fig1) real "$1" 'widths=[1600]' && shares "$1" fig6b ;;
    fig8b) real "$1" 'widths=[200,400,800,1600,inf]' && stand_ins "$1" && wide_stand_ins "$1" ;;
    fig8a | fig8c | fig10c) real "$1" 'widths=[200,400,800,inf]' && wide_stand_ins "$1" ;;
    fig9) real "$1" init.tau2=2 'widths=[200,400,800,inf]' && wide_stand_ins "$1" init.tau2=2 &&
        shares "$1" fig8b stand_ins ;;
    # What a CNN does in the hours that it takes a core.
    fig12)
        sweep 1 full/fig12 +figure=fig12 $images 'widths=[16,32,64,inf]' particles.first=128 particles.last=128 \
            evaluation.samples=2000
        ;;
    # Figure 11 on what the last layer of that CNN has learned, and on what VGG16 makes of images before it has learned
    # anything: all of the figure's path but VGG16's weights.
    fig11)
        [ -e "$OUT/full/features.npz" ] ||
            mfrun export "$OUT/full/fig12/width=64" --features 7 --out "$OUT/full/features.npz"
        sweep 1 full/fig11_cnn +figure=fig11 dataset=arrays "dataset.path=$OUT/full/features.npz" \
            loss=cross_entropy 'widths=[100,200,400,inf]' $few
        pin 1 mfrun data $vgg16 threads=1
        sweep 1 full/fig11_untrained +figure=fig11 dataset=$vgg16 'widths=[100,200,400,inf]' $(few_of fig11)
        ;;
    *) echo "figures.sh full $1: not a figure" >&2 && return 2 ;;
    esac
}

# A figure of CIFAR-10, where that is there at all.
cifar() {
    size=$1 name=$2
    shift 2
    ! has_images || sweep 1 "$size/$name" "+figure=$name" $images "$@"
}

case $SIZE in
minutes)
    cut='budget=0.005 evaluation.samples=2000 particles.first=512 particles.last=256'
    for name in fig1 fig5_top fig5_bottom fig6a fig6b fig6c fig7 fig10a fig10b; do
        sweep 0 "minutes/$name" "+figure=$name" 'widths=[50,100,200,inf]' $cut
    done
    for name in fig8a fig8b fig8c fig9 fig10c; do cifar minutes $name 'widths=[50,100,200,inf]' $cut; done
    cifar minutes fig12 'widths=[4,8,16,inf]' budget=0.001 evaluation.samples=500 particles.first=64 particles.last=64
    exec python scripts/figures_page.py --runs "$OUT" --data "${CIFAR_IS:-}"
    ;;
full)
    [ $# -gt 0 ] || set -- fig5_top fig5_bottom fig6b fig8b fig6a fig8a fig6c fig8c fig7 fig9 fig10a fig10b fig10c fig1 \
        fig12 fig11
    (for name; do [ "$(core_of "$name")" = 1 ] || in_full "$name"; done) &
    first=$!
    ! has_images || for name; do [ "$(core_of "$name")" = 0 ] || in_full "$name"; done
    wait "$first"
    exec python scripts/figures_page.py --runs "$OUT" --data "${CIFAR_IS:-}"
    ;;
hours) ;;
*)
    echo "figures.sh $SIZE: one of minutes, hours, full, gpu" >&2
    exit 2
    ;;
esac

(
    # The README's commands are these, figure by figure.
    sweep 0 gaussians +figure=fig5_top budget=0.3 replicates=4 keep_checkpoints=1
    short 0 fig5_bottom 'widths=[50,100,200,400,inf]' budget=0.05
    short 0 fig10a 'widths=[50,100,200,400,inf]' budget=0.1
) &
first=$!
sweep 1 mnist_4layers dataset=mnist depth=4 'widths=[100,200,400,inf]' steps=100000 replicates=2 \
    particles.first=1024
sweep 1 mnist_3layers dataset=mnist depth=3 'widths=[100,200,400,inf]' steps=15000 replicates=4 \
    particles.first=1024 particles.last=512
sweep 1 two_layers dataset=gaussians depth=2 'widths=[50,200,800,inf]' alpha=0.01 steps=10000 keep_checkpoints=1
sweep 1 mnist_figure6 +figure=fig6b 'widths=[100,200,400,800]' budget=0.1
short 1 fig6a 'widths=[100,200,400,inf]' budget=0.05
short 1 fig6c 'widths=[100,200,400,inf]' budget=0.05
short 1 fig7 'widths=[100,200,400,inf]' budget=0.05
short 1 fig10b 'widths=[100,400,inf]' budget=0.05
for name in fig8a fig8b fig8c fig10c; do cifar short $name 'widths=[200,400,inf]' budget=0.02 $few; done
cifar short fig9 'widths=[200,inf]' budget=0.02 $few
cifar short fig12 'widths=[16,32,inf]' budget=0.02 particles.first=128 particles.last=128 evaluation.samples=1000
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
mfrun statics "$OUT/gaussians/width=inf" --step all --out "$OUT/statics"
cp "$OUT/statics/statics.png" docs/gaussians_rates.png
mfrun plot "$OUT/gaussians" --weights --widths 50,800,inf --out docs/gaussians_weights.png
mfrun plot "$OUT/two_layers" --weights --out docs/two_layers_weights.png
pin 0 python scripts/figures_page.py --runs "$OUT" --data "${CIFAR_IS:-}"
