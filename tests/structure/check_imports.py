"""Checks that each room of src/ includes only the rooms that it may, and that torch stays above the parts without it.

    check_imports.py [ROOT]        one line for each violation, exit 1 when there is one
    check_imports.py --self-test   plants violations in a temporary tree and expects each to be found

A room is a folder of src/, or a folder of text/ and distributed/. It may include itself and what MAY_INCLUDE lists; main.cpp likewise.
"""
import pathlib
import re
import sys
import tempfile

MAY_INCLUDE = {room: set(others.split()) for room, others in {
    "base": "",
    "formats": "base",
    "config": "formats base",
    "kernels": "base",
    "text/tokenizer": "formats base",
    "text/jinja": "text/tokenizer base",
    "text/chat": "text/jinja text/tokenizer config base",
    "text/rows": "text/chat text/tokenizer config formats base",
    "distributed/control": "base",
    "distributed/collectives": "distributed/control config base",
    "distributed/launch": "distributed/control base",
    "tensor": "kernels formats base",
    "parallel": "distributed/collectives kernels tensor config formats base",
    "nn": "kernels tensor formats base",
    "models": "nn parallel tensor config formats base",
    "checkpoint": "models nn parallel tensor distributed/collectives distributed/control config formats base",
    "adapter": "checkpoint models nn kernels tensor distributed/collectives config formats base",
    "plan": "adapter checkpoint models nn parallel tensor distributed/collectives text/rows config formats base",
    "run": "adapter checkpoint models nn tensor distributed/collectives distributed/control text/rows text/chat text/tokenizer "
           "config formats base",
    "report": "plan run adapter checkpoint models config formats base",
    "train": "report plan run adapter checkpoint models nn parallel tensor text/rows text/chat text/tokenizer distributed/launch "
             "distributed/collectives distributed/control config formats base",
    "infer": "train run adapter checkpoint text/rows text/chat text/tokenizer base",
    "cli": "*",
    "main.cpp": "cli base",
}.items()}
WITHOUT_TORCH = {"base", "formats", "config", "kernels", "text"}
TORCH_HEADER = re.compile(r"(torch|ATen|c10|caffe2)/")
INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]+>|"[^"]+")', re.MULTILINE)
SOURCE_SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def includes_of(path):
    """(line number, name, quoted?) of each #include in the file."""
    text = path.read_text(encoding="utf-8")
    for match in INCLUDE.finditer(text):
        name = match.group(1)
        yield text.count("\n", 0, match.start(1)) + 1, name[1:-1], name[0] == '"'


def room_of(path):
    if len(path.parts) == 1:
        return path.parts[0]
    nested = path.parts[0] in ("text", "distributed") and len(path.parts) > 2
    return "/".join(path.parts[:2]) if nested else path.parts[0]


def find_violations(root):
    src = pathlib.Path(root) / "src"
    files = sorted(path for path in src.rglob("*") if path.suffix in SOURCE_SUFFIXES)
    violations = []
    own_includes = {}  # file -> [(line, included file of src/)]
    torch_includes = {}  # file -> (line, torch header)

    for path in files:
        where = path.relative_to(src)
        room = room_of(where)
        own_includes[where] = []
        if room not in MAY_INCLUDE:
            violations.append(f"src/{where}: the room '{room}' is not known (tests/structure/check_imports.py)")
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
            to = room_of(target)
            if to != room and to not in MAY_INCLUDE[room] and "*" not in MAY_INCLUDE[room]:
                violations.append(f"{at}: {room} must not include {to}")

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
        "train/train.h": '#include "adapter/state.h"\n',
        "adapter/state.h": '#include "nn/norm.h"\n',
        "nn/norm.h": '#include <ATen/ATen.h>\n#include "base/error.h"\n',
        "distributed/collectives/group.h": "#include <torch/csrc/distributed/c10d/Store.hpp>\n",
        "text/rows/rows.h": '#include "config/recipe.h"\n',
        "config/recipe.h": "#include <string>\n",
        "base/error.h": "#include <string>\n",
    }
    planted = {  # file, its text, what the complaint must say
        "an upward include": ("base/log.h", '#include "cli/cli.h"\n', "base must not include cli"),
        "main reaching inside": ("main.cpp", '#include "train/train.h"\n', "main.cpp must not include train"),
        "nn with a process group": ("nn/split.cpp", '#include "distributed/collectives/group.h"\n', "nn must not include distributed/collectives"),
        "a room within a folder": ("text/chat/a.h", '#include "text/rows/rows.h"\n', "text/chat must not include text/rows"),
        "torch in base": ("base/bytes.cpp", "#include <c10/util/Half.h>\n", "must build without torch"),
        "torch behind a header": ("text/rows/stream.cpp", '#include "nn/norm.h"\n', "must build without torch"),
        "a relative include": ("train/step.cpp", '#include "../nn/norm.h"\n', "is no file of src/"),
        "a missing file": ("train/step.cpp", '#include "nn/nothing.h"\n', "is no file of src/"),
        "a made header without its source": ("train/step.cpp", '#include "nn/norm.pb.h"\n', "is no file of src/"),
        "an unknown folder": ("misc/stuff.h", "", "is not known"),
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
    print("\n".join(violations) or "every room includes only what it may")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
