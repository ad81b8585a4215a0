#!/bin/sh
# Installs what is missing to build and test: a C compiler, make, pkg-config and cmocka (the library
# that the tests use), with the machine's own package manager. Does nothing when all is there.
set -eu

say() { echo "setup.sh: $*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# A compiler without its C library is no help, so let it read a header.
have_compiler() { have cc && echo '#include <stdio.h>' | cc -E -x c - >/dev/null 2>&1; }

missing=
have_compiler || missing="$missing compiler"
have make || missing="$missing make"
have pkg-config || missing="$missing pkg-config"
{ have pkg-config && pkg-config --exists cmocka; } || missing="$missing cmocka"

if [ -z "$missing" ]; then
    say "compiler, make, pkg-config and cmocka are all here: nothing to do"
    exit 0
fi
say "missing:$missing"

for manager in apt-get dnf apk pacman zypper brew none; do
    have "$manager" && break
done

# What each manager calls the four things.
package() {
    case $manager:$1 in
    apt-get:compiler) echo gcc libc6-dev ;;
    apt-get:cmocka) echo libcmocka-dev ;;
    dnf:compiler) echo gcc glibc-devel ;;
    dnf:pkg-config) echo pkgconf-pkg-config ;;
    dnf:cmocka) echo libcmocka-devel ;;
    apk:compiler) echo gcc musl-dev linux-headers ;;
    apk:pkg-config) echo pkgconf ;;
    apk:cmocka) echo cmocka-dev ;;
    pacman:compiler) echo gcc ;;
    pacman:pkg-config) echo pkgconf ;;
    zypper:compiler) echo gcc glibc-devel ;;
    zypper:cmocka) echo libcmocka-devel ;;
    brew:compiler) echo gcc ;;
    brew:pkg-config) echo pkgconf ;;
    *) echo "$1" ;;
    esac
}

packages=
for thing in $missing; do
    packages="$packages $(package "$thing")"
done

# Homebrew refuses to run as root; all others need it.
root=
if [ "$manager" != brew ] && [ "$(id -u)" != 0 ]; then
    if have sudo; then
        root=sudo
    elif have doas; then
        root=doas
    else
        say "not root, and neither sudo nor doas is here: as root, install:$packages" >&2
        exit 1
    fi
fi

run() {
    say "$*"
    "$@" || { say "that failed: install by hand what is missing:$packages" >&2; exit 1; }
}

# $root and $packages are lists of words, so they stand without quotes.
# shellcheck disable=SC2086
case $manager in
apt-get)
    say "${root:+$root }apt-get update"
    $root apt-get -q update || say "that failed: going on with the package lists that are here"
    run $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends $packages
    ;;
dnf) run $root dnf -y install $packages ;;
apk) run $root apk add $packages ;;
pacman) run $root pacman -Sy --noconfirm --needed $packages ;;
zypper) run $root zypper --non-interactive install $packages ;;
brew) run brew install $packages ;;
none)
    say "no package manager that I know (apt, dnf, apk, pacman, zypper, brew): install by hand:$missing" >&2
    exit 1
    ;;
esac
say "done"
