#!/usr/bin/env bash
# Installs what tests, lint and the cluster demo need and the machine lacks, by name.
#
#   deploy/install-test-tools.sh [redis] [zookeeper] [http] [nghttp2] [python] [node] [nextest] [deny]     (default: all but deny)
#
# redis, zookeeper   Debian packages; needs root or sudo. Where systemd runs, Debian starts redis-server as a service on
#                    port 6379, which nothing here uses: `systemctl disable --now redis-server` ends it.
# http               Debian's curl, php-cli and nodejs (18 or later), for calls through the adapter as its users make them
# nghttp2            Debian's nghttp2-client: nghttp and h2load, for HTTP/2 as a library in C writes and reads it
# python             gRPC's own Python packages, h2, hpack and hyperframe into target/python, and
# node               grpc-js (tests/node, by npm) into target/node: peers that RSF did not write
# nextest, deny      cargo-nextest and cargo-deny, built by `cargo install` into cargo's bin folder
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
export DEBIAN_FRONTEND=noninteractive

readonly python_packages=tests/python/requirements.txt
readonly python_home="${CARGO_TARGET_DIR:-target}/python"
readonly node_packages=tests/node
readonly node_home="${CARGO_TARGET_DIR:-target}/node"

# Package servers have bad minutes: an installation (never a test) is tried three times.
attempt() {
    local try
    for try in 1 2 3; do
        "$@" && return
        echo "attempt $try of 3 failed: $*" >&2
        [ "$try" = 3 ] || sleep $((try * 5))
    done
    return 1
}

apt_install() {
    local as_root=()
    if ! command -v apt-get >/dev/null; then
        echo "missing: $* (Debian's names). Install them with this system's package tool." >&2
        return 1
    elif [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "missing: $*. Install them as root; there is no sudo here to do it for you." >&2
            return 1
        fi
        as_root=(sudo --preserve-env=DEBIAN_FRONTEND)
    fi
    echo "installing with apt-get: $*"
    attempt "${as_root[@]}" apt-get -qq update
    attempt "${as_root[@]}" apt-get -qq -y --no-install-recommends install "$@" >/dev/null
}

has_python() {
    command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null
}

# The list that was installed lies in the environment: when it changes, the environment is made anew.
install_python() {
    if cmp -s "$python_packages" "$python_home/installed.txt" && "$python_home/bin/python" -c 'import grpc'; then
        return
    fi
    echo "installing with pip into $python_home: $(grep -v '^#' "$python_packages" | tr '\n' ' ')"
    rm -rf "$python_home"
    python3 -m venv "$python_home"
    attempt "$python_home/bin/python" -m pip install --quiet --disable-pip-version-check \
        --only-binary :all: --requirement "$python_packages"
    cp "$python_packages" "$python_home/installed.txt"
}

# The lock that was installed lies beside the packages, as Python's list does.
install_node() {
    if cmp -s "$node_packages/package-lock.json" "$node_home/installed.json"; then
        return
    fi
    echo "installing with npm into $node_home: grpc-js and what it needs"
    rm -rf "$node_home"
    mkdir -p "$node_home"
    cp "$node_packages/package.json" "$node_packages/package-lock.json" "$node_home"
    attempt npm ci --prefix "$node_home" --ignore-scripts --no-audit --no-fund --silent </dev/null
    cp "$node_packages/package-lock.json" "$node_home/installed.json"
}

cargo_install() {
    command -v "$1" >/dev/null && return
    echo "installing with cargo: $1 (about two minutes on two cores)"
    # Unoptimized: the tool is quick enough, and building it takes half the time.
    attempt cargo install --quiet --locked --debug "$1" </dev/null
}

[ $# -gt 0 ] || set -- redis zookeeper http nghttp2 python node nextest
packages=()
for tool in "$@"; do
    case $tool in
    redis) command -v redis-server >/dev/null || packages+=(redis-server) ;;
    zookeeper) [ -e /usr/share/java/zookeeper.jar ] && command -v java >/dev/null || packages+=(zookeeper) ;;
    http)
        command -v curl >/dev/null || packages+=(curl)
        command -v php >/dev/null || packages+=(php-cli)
        command -v node >/dev/null || packages+=(nodejs)
        ;;
    nghttp2) command -v nghttp >/dev/null && command -v h2load >/dev/null || packages+=(nghttp2-client) ;;
    node)
        command -v node >/dev/null || packages+=(nodejs)
        command -v npm >/dev/null || packages+=(npm)
        ;;
    python) has_python || packages+=(python3 python3-venv python3-pip) ;;
    nextest | deny) ;;
    *) echo "unknown tool $tool: choose among redis, zookeeper, http, nghttp2, python, node, nextest, deny" >&2 && exit 2 ;;
    esac
done
[ ${#packages[@]} = 0 ] || apt_install "${packages[@]}"
for tool in "$@"; do
    case $tool in
    python) install_python ;;
    node) install_node ;;
    nextest | deny) cargo_install "cargo-$tool" ;;
    esac
done
