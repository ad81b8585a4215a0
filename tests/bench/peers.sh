#!/usr/bin/env bash
# Gets the tunnels that `make bench` compares with. What is built goes into build/peers/bin; nothing is
# installed on the machine except, by root on a Debian or Ubuntu, the packages named below.
#
#   tests/bench/peers.sh             all of them        tests/bench/peers.sh bore socat     only these
#
# A peer that cannot be had is said so at the end; the benchmark goes on without it and names it.
set -u
cd "$(dirname "$0")/../.." || exit 1
ROOT=$PWD/build/peers
mkdir -p "$ROOT/bin"
LOG=$ROOT/log
FRP=v0.71.0
CHISEL=v1.12.1
: > "$LOG"

# One job at a time and low priority: there is no hurry, and the machine may have other work.
gently() { nice -n 15 "$@" >> "$LOG" 2>&1; }

from_debian() {
    command -v "$1" > /dev/null || [ -x "/usr/sbin/$1" ] ||
        { [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null && gently apt-get install -y "$2"; }
}

from_crates() {
    [ -x "$ROOT/bin/$1" ] && return
    command -v cargo > /dev/null || return
    local crate=$2
    shift 2
    # First with the versions its authors locked; a new compiler may need newer ones.
    gently cargo install -j1 --root "$ROOT" --locked "$crate" "$@" ||
        gently cargo install -j1 --root "$ROOT" "$crate" "$@"
}

# By version: a module proxy may have a module's versions without having the list of them.
from_go() {
    local program=$1 module=$2 version=$3 folder=$4 source copy
    [ -x "$ROOT/bin/$program" ] && return
    command -v go > /dev/null || return
    source=$(go mod download -json "$module@$version" 2>> "$LOG" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    [ -n "$source" ] || return
    # Built in a folder of its own: `go install` refuses a module that replaces one of its dependencies.
    copy=$(mktemp -d)
    cp -r "$source/." "$copy" && chmod -R u+w "$copy"
    (cd "$copy" && gently go build -p 1 -buildvcs=false -tags noweb ${5:+-ldflags "$5"} -o "$ROOT/bin/$program" "$folder")
    local result=$?
    rm -rf "$copy"
    return $result
}

get() {
    case $1 in
        ssh) from_debian ssh openssh-client && from_debian sshd openssh-server ;;
        haproxy) from_debian haproxy haproxy ;;
        socat) from_debian socat socat ;;
        bore) from_crates bore bore-cli ;;
        # Without TLS and its like: the comparison uses plain TCP, whose code is the same.
        rathole) from_crates rathole rathole --no-default-features --features server,client ;;
        frp) from_go frps github.com/fatedier/frp "$FRP" ./cmd/frps &&
            from_go frpc github.com/fatedier/frp "$FRP" ./cmd/frpc ;;
        chisel) from_go chisel github.com/jpillora/chisel "$CHISEL" . \
            "-X github.com/jpillora/chisel/share.BuildVersion=$CHISEL" ;;
        *) echo "$1: no such peer" && return 2 ;;
    esac
}

[ $# -gt 0 ] || set -- ssh haproxy socat bore rathole frp chisel
missing=0
for peer; do
    printf '%-8s ' "$peer"
    if get "$peer"; then
        echo "is there"
    else
        echo "cannot be had here"
        missing=$((missing + 1))
    fi
done
[ $missing = 0 ] || echo "Why: see ${LOG#"$PWD/"}"
