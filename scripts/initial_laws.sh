#!/bin/sh
# Initial laws with and without labels, for docs/initial_laws.md: sh scripts/initial_laws.sh OUT DATA [SETTING ...]
# Hours on one core; what has been trained is not trained again, and a run that was stopped goes on.
set -eu
OUT=$1 DATA=$2
shift 2
SETTINGS=${*:-mnist4 gaussians5 mnist5 mnist3 variants}

. "$(dirname "$0")/resumed.sh"

widths='widths=[100,400,inf]'
mnist="dataset=mnist dataset.root=$DATA alpha=0.01 evaluation.samples=2000 init.tau2=1"
# Kernels of 200 samples tell the effective number of types at every evaluation.
kernels=evaluation.kernels=200
few="particles.first=1024 particles.inner=256 particles.last=512"
# What a variant of the labels changes, each for itself, at 3000 steps.
VARIANTS="init.tau=0 init.tau=1 init.tau=2 init.tau=4 init.tau=8 init.m=2 init.m=32 init.g=tanh init.g=erf
    init.directions=random init.tie=[beta] init.tau=1,init.directions=random"

# Both laws in one setting.
both() {
    task=$1
    shift
    sweep "${task}_embedding" "$widths" $few init=embedding "$@"
    sweep "${task}_iid" "$widths" $few "$@"
}

for setting in $SETTINGS; do
    # shellcheck disable=SC2086
    case $setting in
        mnist4) both mnist4 $mnist depth=4 steps=10000 ;;
        mnist5) both mnist5 $mnist $kernels depth=5 steps=30000 ;;
        mnist3) both mnist3 $mnist $kernels depth=3 steps=10000 ;;
        gaussians5) both gaussians5 dataset=gaussians depth=5 steps=30000 ;;
        variants)
            for keys in $VARIANTS; do
                # A folder's name has no brackets.
                name=$(echo "$keys" | tr -d '[]' | sed 's/init\.//g')
                sweep "variants/$name" "$widths" $mnist $few $kernels depth=4 steps=3000 init=embedding $(echo "$keys" | tr , ' ')
            done ;;
        *) echo "$setting: unknown" >&2; exit 2 ;;
    esac
done
