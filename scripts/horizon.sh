#!/bin/sh
# The horizon against n over ten decades, for docs/horizon.md: sh scripts/horizon.sh OUT DATA [SETTING ...]
# Hours on one core; what has been trained is not trained again, and a run that was stopped goes on.
set -eu
OUT=$1 DATA=$2
shift 2
SETTINGS=${*:-mnist4_tau2 mnist4_tau2_N128 mnist4_tau2_data mnist4_tau01 mnist5_tau2 mnist5_tau01 gaussians5_tau3}
WIDE='100,200,1600,10000,1000000,100000000,10000000000,1000000000000,inf'

. "$(dirname "$0")/resumed.sh"

for setting in $SETTINGS; do
    mnist="dataset=mnist dataset.root=$DATA alpha=0.01"
    case $setting in
    mnist4_tau2) sweep $setting $mnist neurons=256 depth=4 init.tau2=2 steps=10000 "widths=[$WIDE]" ;;
    mnist4_tau2_N128) sweep $setting $mnist neurons=128 depth=4 init.tau2=2 steps=10000 "widths=[$WIDE]" ;;
    mnist4_tau2_data) sweep $setting $mnist neurons=128 depth=4 init.tau2=2 steps=10000 replicate_data=independent "widths=[$WIDE]" ;;
    mnist4_tau01) sweep $setting $mnist neurons=128 depth=4 init.tau2=0.1 steps=25000 "widths=[$WIDE]" ;;
    mnist5_tau2) sweep $setting $mnist neurons=256 depth=5 init.tau2=2 steps=30000 "widths=[$WIDE]" ;;
    mnist5_tau01) sweep $setting $mnist neurons=128 depth=5 init.tau2=0.1 steps=25000 "widths=[$WIDE]" ;;
    gaussians5_tau3) sweep $setting dataset=gaussians depth=5 init.tau2=3 neurons=128 stand_in.first=512 steps=30000 "widths=[$WIDE]" ;;
    *) echo "unknown setting $setting" >&2; exit 2 ;;
    esac
done
