"""Fails when two object files of our static libraries define the same symbol.

A linker takes whichever it meets first and says nothing as long as the other object is not needed for something else, so
that two authors of a helper of one name get each other's. Inline functions and templates (weak) are not meant.

    python3 one_definition.py NM LIBRARY.a …
"""

import collections
import subprocess
import sys


def definitions(nm, library):
    """(symbol, "library: object") of each strong definition."""
    text = subprocess.run(
        [nm, "--defined-only", "--extern-only", "--demangle", library], capture_output=True, text=True, check=True
    ).stdout
    member = "?"
    for line in text.splitlines():
        if line.endswith(":"):
            member = line[:-1]
            continue
        parts = line.split(" ", 2)
        if len(parts) == 3 and parts[1] in "TDBRG":
            yield parts[2], f"{library.rsplit('/', 1)[-1]}: {member}"


def main(nm, libraries):
    """Prints each symbol that has more than one home; 1 if there is one."""
    homes = collections.defaultdict(set)
    for library in libraries:
        for symbol, home in definitions(nm, library):
            homes[symbol].add(home)
    if not homes:
        print("no library defines anything: the check looks at the wrong files")
        return 1
    twice = {symbol: where for symbol, where in homes.items() if len(where) > 1}
    for symbol, where in sorted(twice.items()):
        print(f"{symbol} is defined in {', '.join(sorted(where))}")
    print(f"{len(homes)} symbols in {len(libraries)} libraries, {len(twice)} defined more than once")
    return 1 if twice else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
