#!/usr/bin/env python3
"""Runs the tests of one module: status 0 all passed or some skipped, 1 one failed, 77 all were skipped.

    run_suite.py MODULE

`python3 -m unittest` ends with 0 when everything was skipped, and ctest, told to look for "skipped" in the output, would
take a failure beside a skip for a skip.
"""
import os
import sys
import unittest

SKIPPED = 77


def main():
    sys.path.insert(0, os.getcwd())
    suite = unittest.defaultTestLoader.loadTestsFromName(sys.argv[1])
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    if not result.wasSuccessful() or result.testsRun == 0:
        return 1
    for test, reason in result.skipped:
        print(f"skipped: {test.id()}: {reason}")
    return SKIPPED if len(result.skipped) == result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
