#!/usr/bin/env bash
# Builds and runs all tests (unit, conformance, end-to-end, doc) and ends with one line, `N passed, N failed,
# N skipped`, that adds them up. `make test` installs what they need first.
#
# FAILED_BEFORE names steps of the caller that failed already, to be repeated where everybody looks: at the end.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

target="${CARGO_TARGET_DIR:-target}"
log="$target/test.log"
rm -rf "$target/test-tmp" # what failed tests of the last run left
mkdir -p "$target"
: >"$log"

# Users and tests never build the peers that the benchmarks compare with.
selection=(--workspace)
if [ -f benches/Cargo.toml ]; then
    selection+=(--exclude "$(sed -n 's/^name = "\(.*\)"/\1/p' benches/Cargo.toml | head -n 1)")
fi

failed_steps="${FAILED_BEFORE:-}"
run() {
    echo "+ $*"
    "$@" 2>&1 | tee -a "$log" || failed_steps+="${failed_steps:+, }$*"
}

# The simulation turns on features that no program has: a build of its own keeps them out of all others.
selection+=(--exclude rsf-simulation)

# The end-to-end tests run the binaries and examples as programs. One build for all, with the tests' own features.
run cargo build "${selection[@]}" --bins --examples --tests
if [ -z "$failed_steps" ] || [ "$failed_steps" = "${FAILED_BEFORE:-}" ]; then
    run cargo nextest run "${selection[@]}" --no-fail-fast
    run cargo test "${selection[@]}" --doc --no-fail-fast
    run cargo nextest run --package rsf-simulation --no-fail-fast
fi

# Adds up the counts that stand before the words given, in the summaries of nextest (`12 tests run: 11 passed
# (1 slow), 1 timed out, 2 skipped`) and of rustdoc (`test result: ok. 3 passed; 0 failed; 1 ignored; …`).
summaries=$(sed 's/\x1b\[[0-9;]*m//g' "$log" | grep -E '^ *Summary \[|^test result: ')
count() {
    grep -oE "[0-9]+ ($1)\b" <<<"$summaries" | awk '{ sum += $1 } END { print sum + 0 }'
}
passed=$(count 'passed')
failed=$(count 'failed|timed out|exec failed')
skipped=$(count 'skipped|ignored')

if [ -n "$failed_steps" ]; then
    echo "failed: $failed_steps"
    # What does not build has no tests to count, and is a failure all the same.
    [ "$failed" -gt 0 ] || [ "$failed_steps" = "${FAILED_BEFORE:-}" ] || failed=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ -z "$failed_steps" ]
