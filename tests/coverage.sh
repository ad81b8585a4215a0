#!/bin/sh
# After the tests ran with COVERAGE=1: how many lines of each folder they reached. The report, line by
# line, is build/coverage/html/index.html.
set -eu
cd "$(dirname "$0")/.."
out=build/coverage
command -v lcov >/dev/null || { echo "coverage needs lcov, which is not installed" >&2; exit 1; }

lcov -q --capture --directory $out --base-directory . --no-external --output-file $out/all.info
for folder in common stage0-pipe stage1-control stage2-proxy stage3-local; do
    lcov -q --extract $out/all.info "*/$folder/*" --output-file $out/$folder.info
    lcov --summary $out/$folder.info 2>&1 |
        awk -v folder=$folder '/lines/ { sub(/.*: */, ""); printf "%-16s %s\n", folder, $0 }'
done
set -- 
for folder in common stage0-pipe stage1-control stage2-proxy stage3-local; do
    set -- "$@" --add-tracefile $out/$folder.info
done
lcov -q "$@" --output-file $out/ours.info
genhtml -q --output-directory $out/html --title "ngrok--" $out/ours.info
echo "line by line: $out/html/index.html"
