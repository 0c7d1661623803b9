"""The list of source files in docs/files.md, made from the first comment of each file.

    list_files.py [ROOT]           says whether docs/files.md is what it should be, exit 1 when it is not
    list_files.py [ROOT] --write   writes it
    list_files.py --self-test      expects known differences in a temporary tree to be found

x.h and x.cpp are one entry, described by the comment that x.h begins with, else by that of x.cpp. Python is described by the docstring,
scripts and recipes by their first comment, a page of docs by its heading. Of a description the first sentence is taken. Every file must
have one, but for tests: their names say what they test. README.md must name each folder of src/.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

LIST = "docs/files.md"
ROOMS = ["src", "tests", "bench", "tools", "scripts", "cmake", "recipes", "examples", "docs"]
SOURCES = {".h", ".cpp", ".proto"}
HASH_COMMENTS = {".sh", ".cmake", ".yaml", ".txt"}
NOT_LISTED = re.compile(r"^(tests/golden/|examples/dictionary_model/)")
HEAD = f"""# Files

Written by `python3 tests/structure/list_files.py --write` from the first comment of each file; a test compares the two. `x.{{h,cpp}}` are
two files. Not listed: data of tests and examples.
"""


def tracked_files(root):
    """Paths of the files that git knows and the disk has; where there is no git checkout (an unpacked archive), of all files on the disk."""
    listing = subprocess.run(["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             capture_output=True)
    if listing.returncode == 0 and listing.stdout and (pathlib.Path(root) / ".git").exists():
        names = listing.stdout.decode().split("\0")
        return {name for name in names if name and (pathlib.Path(root) / name).is_file()}
    hidden = re.compile(r"^(\.git|\.venv|\.venv-reference|build|build-[^/]*|runs)(/|$)|(^|/)__pycache__/")
    files = (path.relative_to(root).as_posix() for path in pathlib.Path(root).rglob("*") if path.is_file())
    return {name for name in files if not hidden.search(name)}


def first_comment(path):
    """The text that the file begins with, for a reader; "" without one."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text.split("\n")[0].lstrip("# ")
    if path.suffix == ".py":
        found = re.match(r'(?:#!.*\n)?"""(.*?)(?:\n\s*\n|""")', text, re.DOTALL)
        return found[1] if found else ""
    mark = "//" if path.suffix in SOURCES else "#"
    lines = []
    for line in re.sub(r"^#!.*\n", "", text).splitlines():
        if not line.startswith(mark + " "):
            break
        lines.append(line[len(mark):])
    return "\n".join(lines)


def first_sentence(text):
    text = " ".join(text.split())
    return re.match(r".*?(?=\.(?:\s+[A-Z`\[]|$))|.*", text)[0].strip().rstrip(":")


def describe(root):
    """({folder: [(entry, description)]}, complaints)."""
    root = pathlib.Path(root)
    units = {}  # path without suffix, or with it where it stands alone -> its files
    for name in sorted(tracked_files(root)):
        path = pathlib.PurePosixPath(name)
        if path.parts[0] not in ROOMS or NOT_LISTED.match(name) or name == LIST:
            continue
        if path.suffix in SOURCES | HASH_COMMENTS | {".py", ".md"}:
            units.setdefault(str(path.with_suffix("")) if path.suffix in {".h", ".cpp"} else name, []).append(path)
    folders, complaints = {}, []
    for unit, paths in units.items():
        texts = [first_comment(root / path) for path in sorted(paths, key=lambda path: path.suffix != ".h")]
        text = first_sentence(next((text for text in texts if text), ""))
        if not text and not unit.endswith("_test"):
            complaints.append(f"{paths[0]}: does not begin with a comment that says what it is for")
        entry = f"{pathlib.PurePosixPath(unit).name}.{{h,cpp}}" if len(paths) == 2 else paths[0].name
        folders.setdefault(str(paths[0].parent), []).append((entry, text))
    return folders, complaints


def make_list(folders):
    text = HEAD
    order = {room: place for place, room in enumerate(ROOMS)}
    for folder in sorted(folders, key=lambda folder: (order[folder.split("/")[0]], folder)):
        text += f"\n## {folder}\n\n"
        text += "".join(f"- `{entry}`{': ' + words if words else ''}\n" for entry, words in folders[folder])
    return text


def find_differences(root):
    folders, complaints = describe(root)
    path = pathlib.Path(root, LIST)
    if not path.is_file() or path.read_text(encoding="utf-8") != make_list(folders):
        complaints.append(f"{LIST} is out of date: python3 tests/structure/list_files.py --write")
    readme = pathlib.Path(root, "README.md")
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    for folder in sorted({"/".join(folder.split("/")[:2]) for folder in folders if folder.startswith("src/")}):
        if f"`{folder}`" not in text:
            complaints.append(f"README.md does not name {folder}")
    return complaints


def self_test():
    files = {"README.md": "# x\n`src/base`: all\n", "src/main.cpp": "// Where it begins. And ends.\n", "src/base/file.h": "// Reads\n// files.\n",
             "src/base/file.cpp": '#include "base/file.h"\n', "tests/base/file_test.cpp": "int x;\n", "scripts/run.sh": "#!/bin/sh\n# Runs it.\n",
             "tests/a.py": '"""Checks a.\n\nMore."""\n', "docs/a.md": "# A page\n", "tests/golden/x.h": "int y;\n"}
    listed = ("\n## src\n\n- `main.cpp`: Where it begins\n\n## src/base\n\n- `file.{h,cpp}`: Reads files\n\n## tests\n\n- `a.py`: Checks a\n"
              "\n## tests/base\n\n- `file_test.cpp`\n\n## scripts\n\n- `run.sh`: Runs it\n\n## docs\n\n- `a.md`: A page\n")
    cases = {  # changed files, what the complaint must say (None: no complaint)
        "a list that agrees": ({}, None),
        "a new file": ({"src/base/new.h": "// New.\n"}, "out of date"),
        "a file that is gone": ({"src/base/file.cpp": None}, "out of date"),
        "another comment": ({"src/main.cpp": "// Where it starts.\n"}, "out of date"),
        "no comment": ({"src/main.cpp": "int main() {}\n"}, "src/main.cpp: does not begin with a comment"),
        "no docstring": ({"tests/a.py": "import os\n"}, "tests/a.py: does not begin with a comment"),
        "a folder that README lacks": ({"README.md": "# x\n"}, "README.md does not name src/base"),
        "no list": ({LIST: None}, "out of date"),
        "more data": ({"tests/golden/z.h": "int z;\n"}, None),
    }
    failures = 0
    for title, (changed, expected) in cases.items():
        for with_git in (True, False):
            with tempfile.TemporaryDirectory() as root:
                for name, text in {**files, LIST: HEAD + listed, **changed}.items():
                    if text is None:
                        continue
                    path = pathlib.Path(root, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text, encoding="utf-8")
                if with_git:
                    for command in (["init", "-q"], ["add", "-A"]):
                        subprocess.run(["git", "-C", root, *command], check=True, capture_output=True)
                found = find_differences(root)
            good = any(expected in line for line in found) if expected else not found
            failures += not good
            print(f"{'ok' if good else 'FAILED'}: {title}{' (git)' if with_git else ''}" + ("" if good else f": {found}"))
    return failures


def main():
    arguments = sys.argv[1:]
    if arguments == ["--self-test"]:
        return 1 if self_test() else 0
    write = "--write" in arguments
    roots = [argument for argument in arguments if argument != "--write"]
    root = pathlib.Path(roots[0] if roots else pathlib.Path(__file__).resolve().parents[2])
    if write:
        (root / LIST).parent.mkdir(exist_ok=True)
        (root / LIST).write_text(make_list(describe(root)[0]), encoding="utf-8")
    differences = find_differences(root)
    print("\n".join(differences) or f"{LIST} lists every file")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
