"""What tests that compare with transformers and PEFT import first: they run under the interpreter that has both.

That is .venv-reference's, if there is one: the importing test starts again under it. Where neither has them the test says so and exits 77,
which ctest counts as skipped; with MORAINE_REFERENCE=1 that is a failure.
"""
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
SKIPPED = 77

VENV = ROOT / ".venv-reference"
if (VENV / "bin" / "python").exists() and pathlib.Path(sys.prefix).resolve() != VENV.resolve():
    os.execv(VENV / "bin" / "python", [str(VENV / "bin" / "python"), *sys.argv])
try:
    import peft  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    if os.environ.get("MORAINE_REFERENCE") == "1":
        sys.exit(f"FAILED: MORAINE_REFERENCE=1, but {error}")
    print("SKIPPED: transformers/peft not installed")
    sys.exit(SKIPPED)
