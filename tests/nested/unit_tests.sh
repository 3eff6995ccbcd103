#!/bin/sh
# unit_tests.sh PROGRAM FILTER: runs the tests that the filter names. Status 0 if there is one and all passed: a test that
# is skipped has failed here, because the machine is there to run it.
timeout 400 "$1" "--gtest_filter=$2" >/tmp/unit.log 2>&1
status=$?
if [ $status -ne 0 ] || grep -q 'SKIPPED' /tmp/unit.log || ! grep -q 'PASSED  \] [1-9]' /tmp/unit.log; then
  cat /tmp/unit.log
  echo "FAILED: $1 $2: status $status"
  exit 1
fi
grep -v '^\[' /tmp/unit.log
echo "$1: $(sed -n 's/^\[==.* ran\. (\(.*\) total)/\1/p' /tmp/unit.log), $(sed -n 's/.*PASSED  \] //p' /tmp/unit.log)"
