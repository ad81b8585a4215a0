# Sums up what `make test` printed, as its last lines. Counts what cmocka and the other tests here
# report of themselves; the last line, "make test: status N", tells how make itself ended.
/^\[  PASSED  \] [0-9]+ test/ { passed += $4 }
/^\[  FAILED  \] [0-9]+ test/ { failed += $4 }
/^\[  SKIPPED \] [0-9]+ test/ { skipped += $4 }
/^\[  FAILED  \] [^0-9]/ && !seen[$4]++ { names = names "\n    " $4 }
/^\[  SKIPPED \] [^0-9]/ { left_out[$4] = "" }
/^ *skipped: / {  # what and why
    sub(/^ *skipped: /, "")
    if (!told[$0]++) reasons = reasons "\n    " $0
    split($0, part, ":")
    told[part[1]] = 1
}
/\*\*\* \[/ { broken = broken "\n    " $0 }
/^make test: status / { status = $4; ended = 1 }
END {
    bad = !ended || status != 0 || failed > 0
    if (bad && !failed) failed = 1  # a program that crashed or did not build counts as one
    print ""
    for (name in left_out) if (!told[name]) reasons = reasons "\n    " name
    if (reasons) print "Skipped:" reasons
    if (bad) print "Not all is well:" (names broken)
    print passed + 0 " passed, " failed + 0 " failed" (skipped ? ", " skipped " skipped" : "")
    exit bad
}
