#!/usr/bin/env python3
"""Prints why tests were skipped, each reason once with the number of its tests, from ctest's LastTest.log."""
import collections
import re
import sys

# googletest: "FILE:LINE: Skipped", then the reason; our scripts: "skipped: WHO: REASON" or "nested: skipped: REASON".
REASONS = (re.compile(r"^.*:\d+: Skipped\n(.*)$", re.MULTILINE), re.compile(r"^skipped: [^:]*: (.*)$", re.MULTILINE),
           re.compile(r"^nested: skipped: (.*)$", re.MULTILINE), re.compile(r"^fuzz: skipped: (.*)$", re.MULTILINE))


def main():
    with open(sys.argv[1], encoding="utf-8", errors="replace") as log:
        text = log.read()
    counts = collections.Counter(found.strip() for pattern in REASONS for found in pattern.findall(text))
    if counts:
        print("\nskipped, and why:")
    for reason, tests in counts.most_common():
        print(f"  {tests} x {reason}")


if __name__ == "__main__":
    main()
