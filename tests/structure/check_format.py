"""Checks that C++ files are as clang-format 14 (.clang-format) leaves them.

    check_format.py ROOT [--fix]    one line for each file that is not; exit 1, or 77 where there is no clang-format 14
"""
import pathlib
import re
import shutil
import subprocess
import sys

root = pathlib.Path(sys.argv[1])
program = shutil.which("clang-format-14") or shutil.which("clang-format")
version = re.search(r"version (\d+)", subprocess.run([program, "--version"], capture_output=True, text=True).stdout) if program else None
if not version or version.group(1) != "14":  # other versions break some lines otherwise
    print("SKIPPED: no clang-format 14")
    sys.exit(77)
files = [path for folder in ("src", "tests", "bench") for path in sorted((root / folder).rglob("*")) if path.suffix in {".h", ".cpp", ".cu"}]
if "--fix" in sys.argv:
    subprocess.run([program, "-i", *files], check=True)
    sys.exit(0)
done = subprocess.run([program, "--dry-run", *files], capture_output=True, text=True, cwd=root)
bad = sorted({line.split(":")[0] for line in done.stderr.splitlines() if "-Wclang-format-violations" in line})
for path in bad:
    print(f"{pathlib.Path(path).relative_to(root)}: not formatted (python3 tests/structure/check_format.py . --fix)")
sys.exit(1 if bad or done.returncode else 0)
