"""Checks that the file tree in README.md and the tracked files agree, both ways.

    check_readme_tree.py [ROOT]        one line for each difference, exit 1 when there is one
    check_readme_tree.py --self-test   plants differences in a temporary tree and expects each to be found

The tree is the ```text block under the heading "## Files": two spaces a level, a name, two or more spaces, what it is
for. `x.{h,cpp}` stands for both files. A name that ends in / is a folder: with indented lines below it, those must be all
of it; without, it stands for everything in it, which is allowed outside src/ only.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

ENTRY = re.compile(r"^(?P<indent> *)(?P<name>\S+)(?:  +(?P<text>\S.*))?$")
WHOLE_FOLDER_NOT_IN = "src/"


def tracked_files(root):
    """Paths of the files that git knows and the disk has; where there is no git checkout (an unpacked archive), of all files on the disk."""
    listing = subprocess.run(["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z"], capture_output=True)
    if listing.returncode == 0 and listing.stdout and (pathlib.Path(root) / ".git").exists():
        names = listing.stdout.decode().split("\0")
        return {name for name in names if name and (pathlib.Path(root) / name).is_file()}
    hidden = re.compile(r"^(\.git|\.venv|\.venv-reference|build|build-[^/]*|runs)(/|$)|(^|/)__pycache__/")
    files = (path.relative_to(root).as_posix() for path in pathlib.Path(root).rglob("*") if path.is_file())
    return {name for name in files if not hidden.search(name)}


def read_tree(readme):
    """({path: line number} of files, {path/: line number} of folders that stand for all of their content, complaints)."""
    lines = readme.splitlines()
    try:
        start = lines.index("```text", lines.index("## Files")) + 1
        end = lines.index("```", start)
    except ValueError:
        return {}, {}, ["README.md: no ```text block under the heading '## Files'"]
    files, folders, complaints = {}, {}, []
    stack = []  # open folders, outermost first
    for number, line in enumerate(lines[start:end], start + 1):
        if not line.strip():
            continue
        entry = ENTRY.match(line)
        depth = len(entry["indent"]) // 2 if entry else 0
        if not entry or len(entry["indent"]) % 2 or depth > len(stack):
            complaints.append(f"README.md:{number}: not '  name  what it is for': {line.strip()}")
            continue
        del stack[depth:]
        path = "".join(stack) + entry["name"]
        if not entry["text"]:
            complaints.append(f"README.md:{number}: {path} has no word about what it is for")
        if path.endswith("/"):
            stack.append(entry["name"])
            folders[path] = number
            continue
        family = re.fullmatch(r"(.*)\{([^{}]+)\}(.*)", path)
        names = [family[1] + part + family[3] for part in family[2].split(",")] if family else [path]
        for name in names:
            if name in files:
                complaints.append(f"README.md:{number}: {name} is listed twice")
            files[name] = number
    for path in [path for path in folders if any(name != path and name.startswith(path) for name in [*files, *folders])]:
        del folders[path]
    return files, folders, complaints


def find_differences(root):
    root = pathlib.Path(root)
    try:
        readme = (root / "README.md").read_text(encoding="utf-8")
    except FileNotFoundError:
        return ["README.md: no such file"]
    files, folders, complaints = read_tree(readme)
    tracked = tracked_files(root)
    for name, number in files.items():
        if name not in tracked and not (root / name).is_file():
            complaints.append(f"README.md:{number}: {name} is listed but does not exist")
    for path, number in folders.items():
        if path.startswith(WHOLE_FOLDER_NOT_IN):
            complaints.append(f"README.md:{number}: {path} must list its files, a line each")
        elif not any(name.startswith(path) for name in tracked) and not (root / path).is_dir():
            complaints.append(f"README.md:{number}: {path} is listed but does not exist")
    for name in sorted(tracked - files.keys()):
        if not any(name.startswith(path) for path in folders):
            complaints.append(f"README.md: the tree does not list {name}")
    return complaints


def self_test():
    tree = ["README.md  this page", "src/  the program", "  main.cpp  entry", "  base/  tools", "    file.{h,cpp}  files", "tests/  tests"]
    disk = {"README.md", "src/main.cpp", "src/base/file.h", "src/base/file.cpp", "tests/a.cpp", "tests/deep/b.cpp"}
    cases = {  # tree, files, what the complaint must say (None: no complaint)
        "a tree that agrees": (tree, disk, None),
        "a file the tree lacks": (tree, disk | {"src/base/new.h"}, "does not list src/base/new.h"),
        "a top-level file the tree lacks": (tree, disk | {"NEWS"}, "does not list NEWS"),
        "a listed file that is gone": (tree, disk - {"src/main.cpp"}, "src/main.cpp is listed but does not exist"),
        "half of a family gone": (tree, disk - {"src/base/file.cpp"}, "src/base/file.cpp is listed but does not exist"),
        "a folder of src/ in one line": (tree[:3] + ["  base/  tools"] + tree[5:], disk, "must list its files"),
        "a listed folder that is gone": (tree + ["bench/  speed"], disk, "bench/ is listed but does not exist"),
        "a line without a word": (tree[:2] + ["  main.cpp"] + tree[3:], disk, "no word about what it is for"),
        "a file listed twice": (tree + ["README.md  again"], disk, "listed twice"),
        "a broken indent": (tree + ["   x.cpp  odd"], disk, "not '  name  what it is for'"),
        "no tree": (None, disk, "no ```text block"),
    }
    failures = 0
    for title, (lines, names, expected) in cases.items():
        for with_git in (True, False):
            with tempfile.TemporaryDirectory() as root:
                for name in names:
                    path = pathlib.Path(root, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text("", encoding="utf-8")
                block = "\n".join(["# x", "", "## Files", "", "```text", *lines, "```", ""]) if lines else "# x\n"
                pathlib.Path(root, "README.md").write_text(block, encoding="utf-8")
                if with_git:
                    for command in (["init", "-q"], ["add", "-A"]):
                        subprocess.run(["git", "-C", root, *command], check=True, capture_output=True)
                    pathlib.Path(root, "untracked.txt").write_text("", encoding="utf-8")
                found = find_differences(root)
            good = any(expected in line for line in found) if expected else not found
            failures += not good
            print(f"{'ok' if good else 'FAILED'}: {title}{' (git)' if with_git else ''}" + ("" if good else f": {found}"))
    return failures


def main():
    arguments = sys.argv[1:]
    if arguments == ["--self-test"]:
        return 1 if self_test() else 0
    root = arguments[0] if arguments else pathlib.Path(__file__).resolve().parents[2]
    differences = find_differences(root)
    print("\n".join(differences) or "README.md's tree and the tracked files agree")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
