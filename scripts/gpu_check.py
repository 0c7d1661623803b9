"""What scripts/gpu_check.sh runs: see there. Needs Python alone, no packages."""
import argparse
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDENS = ROOT / "tests" / "golden"
LAYER_TESTS = "RmsNorm*:SwiGlu*:Grouped*:Lora*:Attention*:Rope*:Router*:Loss*:QuantizedWeight*:Gated*:CausalConv*:Dropout*"
GOLDEN_TESTS = "Family*:DeepseekV4*:Qwen*:Quantised*:Variants*:DeviceLoading*:DeviceOffload*"
# The widths of Qwen3-30B-A3B with 8 of its 48 layers; for a dry run a hundredth of it.
WIDE = dict(hidden_size=2048, moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8, num_attention_heads=32,
            num_key_value_heads=4, head_dim=128, num_hidden_layers=8, vocab_size=151936)
NARROW = dict(hidden_size=128, moe_intermediate_size=48, num_experts=16, num_experts_per_tok=4, num_attention_heads=4,
              num_key_value_heads=2, head_dim=32, num_hidden_layers=2, vocab_size=1024)


def config(widths):
    return {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1,
            "hidden_act": "silu", "intermediate_size": 3 * widths["hidden_size"], "max_position_embeddings": 65536, "mlp_only_layers": [],
            "norm_topk_prob": True, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "bos_token_id": 1, "eos_token_id": 2, **widths}


def write_tokens(path, rows, length, vocab):
    """A safetensors file of random rows, a quarter of each untrained."""
    draw = random.Random(1)
    ids = [[draw.randrange(3, vocab) for _ in range(length)] for _ in range(rows)]
    labels = [[-100] * (length // 4) + row[length // 4:] for row in ids]
    nbytes = 8 * rows * length
    header = json.dumps({name: {"dtype": "I64", "shape": [rows, length], "data_offsets": [i * nbytes, (i + 1) * nbytes]}
                         for i, name in enumerate(("input_ids", "labels"))}).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for table in (ids, labels):
            for row in table:
                file.write(struct.pack(f"<{length}q", *row))


class Check:
    def __init__(self, arguments, folder):
        self.build, self.out, self.dry_run, self.folder = pathlib.Path(arguments.build).resolve(), arguments.out, arguments.dry_run, folder
        self.device = "cpu" if self.dry_run else "cuda"
        libraries = [str(self.build / "lib"), os.environ.get("MORAINE_TORCH_LIB", ""), os.environ.get("LD_LIBRARY_PATH", "")]
        self.environment = dict(os.environ, LD_LIBRARY_PATH=":".join(filter(None, libraries)), MORAINE_TEST_DEVICE=self.device,
                                MORAINE_TESTS_DIR=str(ROOT / "tests"))
        if self.dry_run:
            self.environment["OMP_NUM_THREADS"] = "1"
        self.results, self.figures = [], {}

    # Steps. Each returns what went wrong, or "" when it held, and may add figures.

    def ceilings(self):
        run = self.run([self.build / "device_ceilings", self.device])
        for line in run.stdout.splitlines():
            figure = json.loads(line)
            self.figures[figure["name"]] = f"{figure['value']} {figure['unit']}"
        return self.failure_of(run)

    def tests(self, program, chosen):
        run = self.run([self.build / program, "--gtest_brief=1", f"--gtest_filter={chosen}"])
        return "" if run.returncode == 0 else "\n".join(line for line in run.stdout.splitlines() if "FAILED" in line)[-1500:] or self.failure_of(run)

    def layers(self):
        return self.tests("test_nn", LAYER_TESTS)

    def goldens(self):
        return self.tests("test_train", GOLDEN_TESTS)

    def program_on_device(self):
        """Training, a resume and an export by the program, against the CPU's losses."""
        problems = []
        for name, limit in (("qwen3_moe-fp32", 1e-3), ("qwen3_5_moe-bf16", 0.2), ("deepseek_v4-fp8fp4", 0.2)):
            golden = GOLDENS / name
            keys = [f"model.path={golden / 'model'}", "train.steps=4", "save.every=2"]
            found = self.train(f"{name}-device", golden / "batch.safetensors", keys)
            wanted = self.train(f"{name}-cpu", golden / "batch.safetensors", keys, device="cpu")
            if isinstance(found, str) or isinstance(wanted, str):
                problems.append(f"{name}: {found if isinstance(found, str) else wanted}")
                continue
            apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(found, wanted))
            self.figures[f"{name}: losses from the CPU's, at most"] = f"{apart:.2e}"
            if not apart < limit:
                problems.append(f"{name}: losses are up to {apart} from the CPU's")
            out = self.folder / f"{name}-device"
            exported = self.run([self.build / "moraine", "export", "--model", golden / "model", "--adapter", out / "adapter", "--layout",
                                 "per-expert", "--out", self.folder / f"{name}-export"])
            if exported.returncode:
                problems.append(f"{name}: {self.failure_of(exported)}")
            again = self.train(f"{name}-again", golden / "batch.safetensors", [*keys, f"save.resume={out / 'checkpoints' / 'step-2'}"])
            if isinstance(again, str) or len(again) != 2 or abs(again[-1]["loss"] - found[-1]["loss"]) > limit:
                problems.append(f"{name}: resumed: {again if isinstance(again, str) else again[-1]['loss']}, before {found[-1]['loss']}")
        return "; ".join(problems)

    def nccl(self):
        """NCCL's collectives in groups of one rank."""
        run = self.run([self.build / "test_distributed", "--gtest_filter=Nccl*"])
        for line in run.stdout.splitlines():
            if "group" in line and line.endswith(" bytes"):
                self.figures["NCCL, " + line.split(":")[0]] = line.split(":")[1].strip()
        if run.returncode == 0 and "[  SKIPPED ]" in run.stdout:
            return None  # no GPU, or a build without it
        return self.failure_of(run)

    def two_ranks(self):
        """Ranks that share the device over Gloo, with buffers poisoned between uses: losses of one rank, within rounding."""
        problems = []
        meshes = {"ep 2": ["mesh.ep=2"], "fsdp 2": [], "ep 2, experts in the host's memory": ["mesh.ep=2", "mesh.offload=experts"],
                  "ep 2, layers in the host's memory": ["mesh.ep=2", "mesh.fsdp=1", "mesh.offload=all"]}
        for name, limit, chosen in (("qwen3_moe-fp32", 1e-3, list(meshes)), ("deepseek_v4-fp8fp4", 0.2, list(meshes)[2:3])):
            golden = GOLDENS / name
            keys = [f"model.path={golden / 'model'}", "train.steps=3", "train.batch_size=2"]
            one = self.train(f"{name}-one", golden / "batch.safetensors", keys)
            if isinstance(one, str):
                problems.append(f"{name}: {one}")
                continue
            for number, mesh in enumerate(chosen):
                two = self.train(f"{name}-two-{number}", golden / "batch.safetensors",
                                 [*keys, *meshes[mesh], "dist.backend=gloo", "--ranks", "2"], MORAINE_POISON="1")
                if isinstance(two, str):
                    problems.append(f"{name}, {mesh}: {two}")
                elif not max(abs(a["loss"] - b["loss"]) for a, b in zip(one, two)) < limit:
                    problems.append(f"{name}, {mesh}: losses differ from one rank's")
        return "; ".join(problems)

    def killed_rank(self):
        golden, out = GOLDENS / "qwen3_moe-fp32", self.folder / "killed"
        command = self.train_command(out, golden / "batch.safetensors", [f"model.path={golden / 'model'}", "train.steps=100000",
                                     "train.batch_size=2", "mesh.ep=2", "dist.backend=gloo", "--ranks", "2"])
        process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            end = time.monotonic() + 120
            while time.monotonic() < end and process.poll() is None:
                metrics = out / "metrics.jsonl"
                if metrics.exists() and metrics.read_text().count("\n") > 2:
                    break
                time.sleep(0.05)
            victims = [int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit() and self.is_rank_1_of(entry, process.pid)]
            if len(victims) != 1:
                return f"rank 1 was not found: {process.stderr.read()[-500:] if process.poll() is not None else 'running'}"
            os.kill(victims[0], 9)
            hurt = time.monotonic()
            _, errors = process.communicate(timeout=60)
            self.figures["a killed rank: seconds to the end"] = f"{time.monotonic() - hurt:.1f}"
            lines = [line for line in errors.splitlines() if "error" in line]
            return "" if process.returncode == 1 and len(lines) == 1 and "rank 1" in lines[0] else f"exit {process.returncode}: {errors[-500:]}"
        finally:
            if process.poll() is None:
                process.kill()

    @staticmethod
    def is_rank_1_of(entry, parent):
        try:
            return (entry / "comm").read_text().strip() == "moraine:1" and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent
        except OSError:
            return False

    def speed(self):
        """Steps at real widths; the peak beside the plan's."""
        widths = NARROW if self.dry_run else WIDE
        (self.folder / "config.json").write_text(json.dumps(config(widths)))
        made = self.run([self.build / "moraine", "init", "--config", self.folder / "config.json", "--out", self.folder / "wide"])
        if made.returncode:
            return self.failure_of(made)
        problems = []
        for tokens in (64, 128) if self.dry_run else (1024, 8192, 32768):
            file = self.folder / f"{tokens}.safetensors"
            length = min(tokens, 4096)
            write_tokens(file, tokens // length, length, widths["vocab_size"])
            for recompute in ("full", "none"):
                what = f"{tokens} tokens a step, recompute {recompute}"
                keys = [f"model.path={self.folder / 'wide'}", f"data.max_length={length}", f"train.batch_size={tokens // length}",
                        f"train.micro_batch_size={tokens // length}", "train.steps=6", f"train.recompute={recompute}", "load.verify=off", "adapter.r=16"]
                steps = self.train(f"speed-{tokens}-{recompute}", file, keys)
                if isinstance(steps, str):
                    if recompute == "full" or "memory" not in steps:
                        problems.append(f"{what}: {steps}")
                    self.figures[what] = steps
                    continue
                seconds = sorted(step["step_seconds"] for step in steps[2:])[len(steps[2:]) // 2]
                peak = max(step["peak_memory_bytes"] for step in steps)
                self.figures[what] = f"{seconds:.3f} s, {tokens / seconds:.0f} tokens/s, peak {peak / 2**30:.1f} GiB, planned {self.planned(file, keys)}"
        return "; ".join(problems)

    def planned(self, file, keys):
        plan = self.run(self.train_command(self.folder / "plan", file, keys, command="plan") + ["--json"])
        if plan.returncode:
            return self.failure_of(plan)
        return f"{max(rank['peak_bytes'] for rank in json.loads(plan.stdout)['ranks']) / 2**30:.1f} GiB"

    def out_of_memory(self):
        """A step that cannot fit ends in one line."""
        if self.dry_run:
            return None  # the host's memory is not for trying
        file = self.folder / "huge.safetensors"
        write_tokens(file, 1, 60000, WIDE["vocab_size"])
        steps = self.train("huge", file, [f"model.path={self.folder / 'wide'}", "data.max_length=60000", "train.batch_size=16", "train.steps=1",
                                          "train.micro_batch_size=16", "train.recompute=none", "load.verify=off"])
        self.figures["out of memory"] = str(steps)[:200]
        return "" if isinstance(steps, str) and steps.count("\n") == 0 and "memory" in steps else f"no clear end: {str(steps)[:500]}"

    # Running.

    def run(self, command, **environment):
        return subprocess.run(list(map(str, command)), env={**self.environment, **environment}, capture_output=True, text=True)

    @staticmethod
    def failure_of(run):
        return "" if run.returncode == 0 else f"exit {run.returncode}: {(run.stderr or run.stdout).strip()[-800:]}"

    def train_command(self, out, tokens, keys, device=None, command="train"):
        recipe = self.folder / "recipe.json"
        recipe.write_text(json.dumps({"model": {"path": "set by a key"}, "data": {"train": [str(tokens)], "shuffle": False}, "save": {"dir": str(out)},
                                      "train": {"learning_rate": 1e-3}, "log": {"tensorboard": False}}))
        return list(map(str, [self.build / "moraine", command, recipe, f"dist.device={device or self.device}", *keys]))

    def train(self, name, tokens, keys, device=None, **environment):
        """The steps' metrics, or what went wrong."""
        out = self.folder / name
        run = self.run(self.train_command(out, tokens, keys, device), **environment)
        if run.returncode:
            return self.failure_of(run)
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    def step(self, name, work):
        start = time.monotonic()
        try:
            problem = work()
        except Exception as error:  # a step that breaks is a failure; the others still teach something
            problem = f"{type(error).__name__}: {error}"
        state = "not run" if problem is None else "FAILED" if problem else "passed"
        self.results.append({"step": name, "state": state, "seconds": round(time.monotonic() - start, 1), "problem": problem or ""})
        print(f"{state:8} {name} ({self.results[-1]['seconds']} s)" + (f": {problem}" if problem else ""), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build")
    parser.add_argument("--out", help="a folder for gpu_check.json")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    arguments.build = arguments.build or str(ROOT / ("build" if arguments.dry_run else "build-cuda"))
    memory = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.exists() and not arguments.dry_run else None) as folder:
        check = Check(arguments, pathlib.Path(folder))
        # In this order a run that is cut short teaches most.
        for name, work in (("ceilings", check.ceilings), ("layers against formulas", check.layers), ("goldens of all families", check.goldens),
                           ("train, resume and export by the program", check.program_on_device), ("collectives of NCCL", check.nccl), ("two ranks on one device", check.two_ranks),
                           ("a rank killed while training", check.killed_rank), ("steps at real widths", check.speed),
                           ("out of memory", check.out_of_memory)):
            check.step(name, work)
        print("\n| figure | value |\n|---|---|")
        for name, value in check.figures.items():
            print(f"| {name} | {value} |")
        if arguments.out:
            pathlib.Path(arguments.out).mkdir(parents=True, exist_ok=True)
            (pathlib.Path(arguments.out) / "gpu_check.json").write_text(json.dumps({"steps": check.results, "figures": check.figures}, indent=1))
        states = [result["state"] for result in check.results]
        print(f"\n{states.count('not run')} not run\n{states.count('passed')} passed, {states.count('FAILED')} failed")
        return 1 if "FAILED" in states else 0


if __name__ == "__main__":
    sys.exit(main())
