#!/bin/sh
# Initial laws with and without labels, for docs/initial_laws.md: sh scripts/initial_laws.sh OUT DATA [SETTING ...]
# An hour on one core; what has been trained is not trained again, and a run that was stopped goes on.
set -eu
OUT=$1 DATA=$2
shift 2
SETTINGS=${*:-mnist4_embedding mnist4_iid mnist4_random gaussians5_embedding gaussians5_iid}

. "$(dirname "$0")/resumed.sh"

for setting in $SETTINGS; do
    widths='widths=[100,400,inf]'
    mnist="dataset=mnist dataset.root=$DATA alpha=0.01 depth=4 steps=10000 evaluation.samples=2000 init.tau2=1"
    few="particles.first=1024 particles.inner=256 particles.last=512"
    gaussians="dataset=gaussians depth=5 steps=10000 particles.first=1024 particles.inner=256"
    # shellcheck disable=SC2086
    case $setting in
        mnist4_embedding) sweep $setting "$widths" $mnist $few init=embedding ;;
        mnist4_iid) sweep $setting "$widths" $mnist $few ;;
        mnist4_random) sweep $setting "$widths" $mnist $few init=embedding init.directions=random init.tau=1 ;;
        gaussians5_embedding) sweep $setting "$widths" $gaussians init=embedding ;;
        gaussians5_iid) sweep $setting "$widths" $gaussians ;;
        *) echo "$setting: unknown" >&2; exit 2 ;;
    esac
done
