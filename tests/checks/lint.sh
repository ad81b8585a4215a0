#!/bin/sh
# Reads everything in the repository with the tools that find faults without running it: clang-format,
# clang-tidy and cppcheck all C, shellcheck all shell. Exits 1 if one of them finds anything.
# What clang-tidy looks for, what not, and why, is in .clang-tidy.
set -u
cd "$(dirname "$0")/../.." || exit

sources=$(find common stage[0-3]-* tests -name '*.c')
headers=$(find common stage[0-3]-* tests -name '*.h')
scripts=$(find . \( -path ./.git -o -path ./build -o -path './my-*' \) -prune -o -type f \
    -exec awk 'FNR == 1 && /^#!.*[\/ ](ba)?sh( |$)/ { print FILENAME }' {} +)

# _GNU_SOURCE is empty, so that a file which says `#define _GNU_SOURCE` itself says nothing new. From common/
# on, "../common/log.h" is found as in a reader's own folder.
flags='-D_GNU_SOURCE= -DLAST_IS_TOLD=1 -DLAST_WAITS=1 -I. -Icommon'

# The lists are words without blanks, so they stand without quotes. clang-tidy takes seconds for a file,
# so two run at a time; on its stderr is only how much it left out. Of what cppcheck finds: variables stand at
# the head of their function here (variableScope), and it does not know that a failed assertion in a test
# does not return (nullPointerRedundantCheck; _Noreturn it knows by another name only).
# shellcheck disable=SC2016,SC2086
run() {
    case $1 in
    clang-format) clang-format --dry-run -Werror $sources $headers ;;
    shellcheck) shellcheck $scripts ;;
    cppcheck)
        cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 $flags '-D_Noreturn=__attribute__((noreturn))' \
            --enable=warning,style,performance,portability --suppress=variableScope \
            --suppress='nullPointerRedundantCheck:tests/*' $sources
        ;;
    clang-tidy)
        # os_bsd.c is read where it can be compiled: make test-platforms.
        echo "$sources" | grep -v os_bsd |
            flags=$flags xargs -n 1 -P 2 sh -c 'clang-tidy --quiet "$1" -- -std=c11 $flags 2>/dev/null' sh
        ;;
    esac
}

status=0
for tool in clang-format shellcheck cppcheck clang-tidy; do
    command -v $tool >/dev/null || { echo "lint needs $tool, which is not installed" >&2; exit 1; }
    echo "  $tool"
    run $tool || status=1
done
[ $status = 0 ] && echo "no findings"
exit $status
