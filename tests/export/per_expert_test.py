"""What `moraine export --layout per-expert` writes is read by plain PEFT where PEFT knows the family's experts one by one: fp32, to 1e-5.

    per_expert_test.py MORAINE_PROGRAM

PEFT makes 3-D adapters of such a folder for Qwen3-MoE, Mixtral and OLMoE: the loss must be the reference's with the golden adapter. For
Qwen3.5-MoE and DeepSeek-V4 it does not, which is asserted too: should a later PEFT read them, this test and docs/adapters.md have to change.
Needs transformers and peft (tests/reference.py).
"""
import pathlib
import subprocess
import sys
import tempfile
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from reference import GOLDEN  # first: it may start this test again
from families import facts_of, golden_models

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-5
READ_BY_PEFT = {golden: facts_of(golden)["peft_reads_per_expert"] for golden in golden_models("fp32")
                if facts_of(golden).get("per_expert_layout", True)}
REFUSED = [golden for golden in golden_models("fp32") if golden not in READ_BY_PEFT]  # gate and up are interleaved


def peft_loss(golden, adapter):
    """None where PEFT does not take every tensor of the adapter."""
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / golden / "model", dtype=torch.float32, attn_implementation="eager",
                                                 experts_implementation="eager").eval()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            model = PeftModel.from_pretrained(model, adapter).eval()
    except (Warning, ValueError, RuntimeError, KeyError) as error:
        print(f"{golden}: PEFT says: {str(error)[:150]}")
        return None
    with torch.no_grad():
        return model(**load_file(GOLDEN / golden / "batch.safetensors"), use_cache=False).loss.item()


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for golden, is_read in READ_BY_PEFT.items():
            adapter = pathlib.Path(folder) / golden
            subprocess.run([program, "export", "--model", GOLDEN / golden / "model", "--adapter", GOLDEN / golden / "lora" / "adapter",
                            "--layout", "per-expert", "--out", adapter], check=True, stdout=subprocess.DEVNULL)
            expected = load_file(GOLDEN / golden / "lora" / "forward.safetensors")["loss"].item()
            loss = peft_loss(golden, adapter)
            good = is_read == (loss is not None and abs(loss - expected) <= TOLERANCE)
            failures += not good
            print(f"{'ok' if good else 'FAILED'}: {golden}: PEFT {loss}, reference {expected:.7f}", flush=True)
        for golden in REFUSED:
            ended = subprocess.run([program, "export", "--model", GOLDEN / golden / "model", "--adapter", GOLDEN / golden / "lora" / "adapter",
                                    "--layout", "per-expert", "--out", pathlib.Path(folder) / golden], capture_output=True, text=True)
            good = ended.returncode == 2 and "no layout with a module for each expert" in ended.stderr
            failures += not good
            print(f"{'ok' if good else 'FAILED'}: {golden}: {ended.stderr.strip()[:200]}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
