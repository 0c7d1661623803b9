"""Runs clang-tidy (.clang-tidy) on the C++ sources that differ from the last commit.

    check_tidy.py ROOT BUILD [FILE ...]    the files given instead; exit 1 on a finding, 77 where there is no clang-tidy

Several sources are compiled as one, so a file takes the flags of a unit of its own library in BUILD/compile_commands.json.
"""
import json
import pathlib
import shlex
import shutil
import subprocess
import sys

root, build = map(pathlib.Path, sys.argv[1:3])
program = shutil.which("clang-tidy")
if not program:
    print("SKIPPED: no clang-tidy")
    sys.exit(77)


def git(*arguments):
    done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


def flags_of(path):
    target = f"moraine_{path.parts[1]}.dir" if path.parts[0] == "src" else f"test_{path.parts[1]}.dir"
    for unit in json.loads((build / "compile_commands.json").read_text()):
        if target not in unit["command"]:
            continue
        words = shlex.split(unit["command"])
        words = words[next(i for i, word in enumerate(words) if word.endswith(("c++", "g++"))) + 1:]
        pairs = ("-o", "-c", "-include")  # the precompiled header is gcc's
        return [word for i, word in enumerate(words) if word not in pairs and words[i - 1] not in pairs]
    return None


changed = sys.argv[3:] or sorted({*git("diff", "--name-only", "HEAD"), *git("ls-files", "--others", "--exclude-standard")})
failures = 0
for name in changed:
    path = pathlib.PurePosixPath(name)
    if path.suffix != ".cpp" or path.parts[0] not in ("src", "tests") or not (root / path).is_file():
        continue
    flags = flags_of(path)
    if flags is None:
        continue
    done = subprocess.run([program, "--quiet", root / path, "--", *flags, "-Wno-everything"], capture_output=True, text=True)
    findings = [line for line in done.stdout.splitlines() if "error:" in line or ": warning:" in line]
    if done.returncode != 0 and not findings:
        findings = done.stderr.splitlines()[-3:]
    failures += len(findings)
    print("\n".join(findings) if findings else f"ok: {name}", flush=True)
sys.exit(1 if failures else 0)
