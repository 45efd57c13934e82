#!/usr/bin/env bash
# Runs the reliability cases and ends with their lines, then one that counts them. Without arguments all of them run;
# `tests/reliability.sh T23,T28` runs two. RSF_SEED repeats what a case draws itself, with the seed that its line shows.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

filter="binary(=reliability)"
if [ $# -gt 0 ]; then
    cases=$(tr ',[:upper:]' ' [:lower:]' <<<"$*")
    filter+=" & ("
    for case in $cases; do
        filter+="${joined:-}test(/^${case}::/)"
        joined=" | "
    done
    filter+=")"
fi

log="${CARGO_TARGET_DIR:-target}/reliability.log"
mkdir -p "$(dirname "$log")"
cargo build --package rsf-cli --package shop --package rsf-suite --bins || exit
cargo nextest run --package rsf-suite --test reliability --no-fail-fast --success-output immediate \
    --failure-output immediate -E "$filter" 2>&1 | tee "$log"
result=$?

echo
lines=$(grep -hoE 'RSF-REL .*' "$log" | sort -u)
echo "$lines"
count() { grep -cE "$1" <<<"$lines"; }
# A case that broke off has no line of its own.
failed=$(sed -nE 's/^ *Summary .* ([0-9]+) failed.*/\1/p' "$log")
echo "$(count 'PASS$') passed, ${failed:-0} failed, $(count 'SKIPPED: ') skipped"
exit "$result"
