#!/bin/sh
# After the tests ran with COVERAGE=1: how many lines of each folder they reached. The report, line by
# line, is build/coverage/html/index.html. The sample app is left out: test-browser tries that one.
set -eu
cd "$(dirname "$0")/../.."
out=build/coverage
folders='common stage0-pipe stage1-control stage2-proxy stage3-local'
command -v lcov >/dev/null || { echo "coverage needs lcov, which is not installed" >&2; exit 1; }

# lcov's own warnings are shown only if it fails.
run() { "$@" >$out/lcov.log 2>&1 || { cat $out/lcov.log >&2; exit 1; }; }

# What there is to reach, in files that no test ran too; then what was reached.
run lcov --capture --initial --directory $out --base-directory . --no-external --output-file $out/least.info
run lcov --capture --directory $out --base-directory . --no-external --output-file $out/reached.info
run lcov --add-tracefile $out/least.info --add-tracefile $out/reached.info --output-file $out/all.info
run lcov --remove $out/all.info '*/tests/*' '*/app.c' --output-file $out/ours.info
run genhtml --title ngrok-- --output-directory $out/html $out/ours.info

for folder in $folders; do
    run lcov --extract $out/ours.info "*/$folder/*" --output-file $out/folder.info
    lcov --summary $out/folder.info 2>&1 |
        awk -v folder="$folder" '/lines/ { sub(/.*: */, ""); printf "%-16s %s\n", folder, $0 }'
done
echo "line by line: $out/html/index.html"
