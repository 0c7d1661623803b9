"""The families with goldens, as tests/golden/families.json has them (see tests/families.h)."""
import json
import pathlib

GOLDENS = pathlib.Path(__file__).resolve().parent / "golden"
FAMILIES = json.loads((GOLDENS / "families.json").read_text())


def golden_models(*storages):
    """"qwen3_moe-fp32" and so on, of these storages."""
    return [f"{name}-{storage}" for name, facts in FAMILIES.items() for storage in facts["goldens"] if storage in storages]


def facts_of(golden):
    return FAMILIES[golden.rpartition("-")[0]]
