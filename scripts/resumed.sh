# For the scripts that train many sweeps: sweep NAME KEYS..., into $OUT/NAME with four starts, from where it stands.
# What has been trained is not trained again.
sweep() {
    name=$1
    shift
    echo "== $name"
    again=false
    [ ! -e "$OUT/$name/sweep.yaml" ] || again=true
    python -m mfrun sweep threads=1 dir="$OUT/$name" resume=$again replicates=4 "$@"
}
