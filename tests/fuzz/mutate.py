"""mutate.py IN OUT OLD NEW: writes IN to OUT with OLD, which occurs exactly once, replaced by NEW."""

import pathlib
import sys

source, target, old, new = sys.argv[1:]
text = pathlib.Path(source).read_text(encoding="utf-8")
if text.count(old) != 1:
    sys.exit(f"{source}: {old!r} occurs {text.count(old)} times, not once: the mutant of tests/fuzz is out of date")
pathlib.Path(target).write_text(text.replace(old, new), encoding="utf-8")
