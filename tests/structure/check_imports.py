"""Checks that the folders of src/ include each other one way only, and that torch stays above the parts without it.

    check_imports.py [ROOT]        one line for each violation, exit 1 when there is one
    check_imports.py --self-test   plants violations in a temporary tree and expects each to be found

A folder may include itself and every folder to its right in ORDER; main.cpp only what is in MAIN_MAY_INCLUDE.
"""
import pathlib
import re
import sys
import tempfile

ORDER = ["cli", "train", "adapter", "models", "nn", "load", "parallel", "data", "dist", "config", "formats", "base"]
MAIN_MAY_INCLUDE = {"cli", "base"}
FORBIDDEN = {("nn", "dist"): "single-device maths must not know process groups"}
WITHOUT_TORCH = {"base", "formats", "config", "data"}
TORCH_HEADER = re.compile(r"(torch|ATen|c10|caffe2)/")
INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]+>|"[^"]+")', re.MULTILINE)
SOURCE_SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def includes_of(path):
    """(line number, name, quoted?) of each #include in the file."""
    text = path.read_text(encoding="utf-8")
    for match in INCLUDE.finditer(text):
        name = match.group(1)
        yield text.count("\n", 0, match.start(1)) + 1, name[1:-1], name[0] == '"'


def find_violations(root):
    src = pathlib.Path(root) / "src"
    files = sorted(path for path in src.rglob("*") if path.suffix in SOURCE_SUFFIXES)
    violations = []
    own_includes = {}  # file -> [(line, included file of src/)]
    torch_includes = {}  # file -> (line, torch header)

    for path in files:
        where = path.relative_to(src)
        folder = where.parts[0] if len(where.parts) > 1 else ""
        own_includes[where] = []
        if folder and folder not in ORDER:
            violations.append(f"src/{where}: folder '{folder}' has no place in the order (tests/structure/check_imports.py)")
            continue
        for line, name, quoted in includes_of(path):
            if TORCH_HEADER.match(name):
                torch_includes.setdefault(where, (line, name))
            if not quoted:
                continue
            at = f"src/{where}:{line}"
            target = pathlib.PurePosixPath(name)
            made_from = pathlib.PurePosixPath(re.sub(r"\.pb\.h$", ".proto", name))  # headers that protoc makes
            if ".." in target.parts or not (src / made_from).is_file():
                violations.append(f'{at}: "{name}" is no file of src/ (include by the path from src/; other headers with <>)')
                continue
            own_includes[where].append((line, pathlib.Path(target)))
            to = target.parts[0]
            if not folder:
                if to not in MAIN_MAY_INCLUDE:
                    violations.append(f"{at}: {where} may include only {', '.join(sorted(MAIN_MAY_INCLUDE))}, not {to}")
            elif to not in ORDER or ORDER.index(to) < ORDER.index(folder):
                violations.append(f"{at}: {folder} must not include {to} (order: {' -> '.join(ORDER)})")
            elif (folder, to) in FORBIDDEN:
                violations.append(f"{at}: {folder} must not include {to}: {FORBIDDEN[folder, to]}")

    # A torch header behind another header counts as well.
    def path_to_torch(where, seen):
        if where in torch_includes:
            return [str(where), torch_includes[where][1]]
        seen.add(where)
        for _, target in own_includes.get(where, []):
            if target not in seen and (rest := path_to_torch(target, seen)):
                return [str(where)] + rest
        return None

    for where in own_includes:
        if where.parts[0] in WITHOUT_TORCH and (chain := path_to_torch(where, set())):
            violations.append(f"src/{where}: {where.parts[0]} must build without torch: {' -> '.join(chain)}")
    return violations


def self_test():
    clean = {
        "main.cpp": '#include "cli/cli.h"\n#include "base/error.h"\n',
        "cli/cli.h": '#include "train/train.h"\n',
        "train/train.h": '#include "nn/norm.h"\n',
        "nn/norm.h": '#include <ATen/ATen.h>\n#include "base/error.h"\n',
        "dist/group.h": "#include <torch/csrc/distributed/c10d/Store.hpp>\n",
        "data/rows.h": '#include "config/recipe.h"\n',
        "config/recipe.h": "#include <string>\n",
        "base/error.h": "#include <string>\n",
    }
    planted = {  # file, its text, what the complaint must say
        "an upward include": ("base/log.h", '#include "cli/cli.h"\n', "base must not include cli"),
        "main reaching inside": ("main.cpp", '#include "train/train.h"\n', "may include only"),
        "nn with a process group": ("nn/split.cpp", '#include "dist/group.h"\n', "nn must not include dist"),
        "torch in base": ("base/bytes.cpp", "#include <c10/util/Half.h>\n", "must build without torch"),
        "torch behind a header": ("data/stream.cpp", '#include "dist/group.h"\n', "must build without torch"),
        "a relative include": ("train/step.cpp", '#include "../nn/norm.h"\n', "is no file of src/"),
        "a missing file": ("train/step.cpp", '#include "nn/nothing.h"\n', "is no file of src/"),
        "a made header without its source": ("train/step.cpp", '#include "nn/norm.pb.h"\n', "is no file of src/"),
        "an unknown folder": ("misc/stuff.h", "", "has no place in the order"),
        "a spaced include": ("formats/a.h", '#  include   "models/model.h"\n', "is no file of src/"),
    }
    failures = 0
    for title, (name, text, expected) in {"a clean tree": (None, None, None), **planted}.items():
        with tempfile.TemporaryDirectory() as root:
            for file, content in {**clean, **({name: text} if name else {})}.items():
                path = pathlib.Path(root, "src", file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
            found = find_violations(root)
        good = any(expected in line for line in found) if expected else not found
        failures += not good
        print(f"{'ok' if good else 'FAILED'}: {title}" + ("" if good else f": {found}"))
    return failures


def main():
    arguments = sys.argv[1:]
    if arguments == ["--self-test"]:
        return 1 if self_test() else 0
    root = arguments[0] if arguments else pathlib.Path(__file__).resolve().parents[2]
    violations = find_violations(root)
    print("\n".join(violations) or "imports go one way")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
