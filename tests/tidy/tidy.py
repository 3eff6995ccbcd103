#!/usr/bin/env python3
"""The tree polices itself: include arrows, sizes, banned calls, words that do not belong here.

Usage: tidy.py ROOT        checks the tree
       tidy.py --self-test checks that each rule can fail
"""
import pathlib
import re
import subprocess
import sys

# folder -> folders of ours it may include. engine <- {schemas, vmm_glue, transport, journal, fence} <- tools <- tests
ARROWS = {
    "engine": {"engine"},
    "schemas": {"schemas", "engine"},
    "vmm_glue": {"vmm_glue", "engine"},
    "transport": {"transport", "engine"},
    "journal": {"journal", "engine"},
    "fence": {"fence", "engine"},
    "tools": {"tools", "schemas", "vmm_glue", "transport", "journal", "fence", "engine"},
    "tests": {"tests", "tools", "schemas", "vmm_glue", "transport", "journal", "fence", "engine"},
}
# What only one folder may include.
ONLY_IN = [
    (re.compile(r"#include <linux/"), {"vmm_glue"}),
    (re.compile(r"#include <(sys/socket|netinet/|arpa/)"), {"transport"}),
    (re.compile(r"#include <(capnp|kj)/|\.capnp\.h"), {"schemas"}),
    (re.compile(r"#include <boost/"), {"transport"}),
]
ENGINE_HAS_NO = [
    (re.compile(r"#include <(unistd|fcntl|poll|pthread)\.h>|#include <sys/"), "a system call"),
    (re.compile(r"steady_clock|system_clock"), "a clock"),
]
BANNED = [
    (re.compile(r"(?<![\w_])assert\("), "assert(): use SEALIFT_ASSERT, which stays on in release"),
    (re.compile(r"(?<![\w_:])s?rand\("), "rand(): use a seeded generator"),
    (re.compile(r"\.detach\(\)"), "a detached thread"),
    (re.compile(r"sleep_for|(?<![\w_])u?sleep\("), "a sleep: wait for the thing itself"),
    (re.compile(r"\bTODO\b(?!\((security|perf|someday)\))"), "TODO without its kind, TODO(security|perf|someday)"),
    (re.compile(r"\bFIXME\b|\bXXX\b"), "FIXME"),
    (re.compile(r"^\s*using namespace (?!sealift|test\b|guest\b|std::\w*_?literals|std::chrono_literals|destination|source)"), "using namespace"),
]
LINE_MAX = 120
FILE_LINES_MAX = 600
CODE = (".cc", ".h")


def include_errors(name, text):
    folder = name.split("/")[0]
    allowed = ARROWS.get(folder)
    if allowed is None:
        return []
    errors = []
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r'\s*#\s*include "([^/"]+)/', line)
        test = name.endswith("_test.cc") or "test_" in name.rsplit("/", 1)[-1]
        if found and found[1] in ARROWS and found[1] not in allowed and not (test and found[1] == "tests"):
            errors.append(f"{name}:{number}: {folder} must not include {found[1]}")
        for pattern, folders in ONLY_IN:
            if pattern.search(line) and folder not in folders:
                errors.append(f"{name}:{number}: only {', '.join(sorted(folders))} may have {line.strip()}")
        if folder == "engine" and not test:
            for pattern, what in ENGINE_HAS_NO:
                if pattern.search(line):
                    errors.append(f"{name}:{number}: engine has {what}: {line.strip()}")
    return errors


def code_errors(name, text):
    errors = []
    lines = text.splitlines()
    if len(lines) > FILE_LINES_MAX:
        errors.append(f"{name}: {len(lines)} lines, more than {FILE_LINES_MAX}")
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_MAX:
            errors.append(f"{name}:{number}: {len(line)} columns, more than {LINE_MAX}")
        for pattern, what in BANNED:
            if pattern.search(line.split("// tidy: allow")[0]) and "// tidy: allow" not in line:
                errors.append(f"{name}:{number}: {what}")
    if name.endswith(".h"):
        if "#pragma once" not in text:
            errors.append(f"{name}: no #pragma once")
        if not text.startswith("//"):
            errors.append(f"{name}: a header starts with its contract")
    return errors


def source_list_errors(files):
    """Every .cc is named by the CMakeLists.txt of its folder or one above: nothing lies around unbuilt."""
    errors = []
    lists = {name: text for name, text in files.items() if name.endswith("CMakeLists.txt")}
    for name in files:
        if not name.endswith(".cc"):
            continue
        parts = name.split("/")
        above = ["/".join(parts[:depth] + ["CMakeLists.txt"]) for depth in range(len(parts))]
        named = any(re.search(rf"(?<![\w-]){re.escape(parts[-1])}(?!\w)", lists.get(path, "")) for path in above)
        named = named or any(name.split("/", 1)[1] in text for text in lists.values())
        if not named:
            errors.append(f"{name}: no CMakeLists.txt builds it")
    return errors


def readme_errors(files):
    """The README shows the example that is compiled, not a copy that drifts."""
    readme, example = files.get("README.md"), files.get("docs/examples/embed.cc")
    if readme is None or example is None or example.strip() in readme:
        return []
    return ["README.md: the embedding example is not docs/examples/embed.cc word for word"]


def check(files):
    errors = source_list_errors(files) + readme_errors(files)
    for name, text in files.items():
        if name.endswith(CODE):
            errors += include_errors(name, text) + code_errors(name, text)
    return errors


def self_test():
    """Each rule refuses its own example; a rule that cannot fail is no rule."""
    listed = {"engine/CMakeLists.txt": "a.cc", "tools/CMakeLists.txt": "b.cc"}
    cases = {
        "wrong arrow": {"engine/a.cc": '#include "transport/stream.h"\n'},
        "middle layers do not know each other": {"schemas/a.h": '// x\n#pragma once\n#include "transport/frame.h"\n'},
        "linux headers": {"engine/a.cc": "#include <linux/kvm.h>\n"},
        "sockets": {"tools/b.cc": "#include <sys/socket.h>\n"},
        "capnp": {"tools/b.cc": "#include <capnp/message.h>\n"},
        "clock in the engine": {"engine/a.cc": "auto t = std::chrono::steady_clock::now();\n"},
        "assert": {"engine/a.cc": "assert(x);\n"},
        "sleep": {"tools/b.cc": "std::this_thread::sleep_for(1s);\n"},
        "detach": {"tools/b.cc": "t.detach();\n"},
        "todo": {"tools/b.cc": "// TODO later\n"},  # tidy: allow
        "long line": {"tools/b.cc": "x" * 121 + "\n"},
        "long file": {"tools/b.cc": "\n" * 601},
        "no contract": {"engine/a.h": "#pragma once\n"},
        "no pragma": {"engine/a.h": "// x\n"},
        "unbuilt": {"engine/forgotten.cc": "int x;\n"},
        "readme": {"README.md": "other", "docs/CMakeLists.txt": "embed.cc", "docs/examples/embed.cc": "int x;"},
    }
    for what, files in cases.items():
        if not check({**listed, **files}):
            sys.exit(f"self-test: the rule '{what}' let its example pass")
    good = {**listed, "engine/a.cc": '#include "engine/a.h"\n', "tools/b.cc": '#include "engine/a.h"\n'}
    if errors := check(good):
        sys.exit(f"self-test: good code was refused: {errors}")
    print(f"{len(cases)} rules refuse their example")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    root = pathlib.Path(sys.argv[1])
    listing = subprocess.run(["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"],
                             capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        names = listing.stdout.split("\n")
    else:  # an exported tree
        names = [str(p.relative_to(root)) for p in root.rglob("*") if "build" not in p.parts]
    wanted = [n for n in names if n.endswith(CODE + ("CMakeLists.txt", "README.md")) and (root / n).is_file()]
    errors = check({name: (root / name).read_text(encoding="utf-8") for name in wanted})
    for error in errors:
        print(error)
    print(f"{len(wanted)} files, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
