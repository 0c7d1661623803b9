"""Ranks on several hosts: the losses of one process on every mesh, and what crosses the wire between the hosts.

  python3 hosts_test.py PROGRAM     (standard library only; as root, for it makes network namespaces: else skipped, exit 77)

A host is a network namespace with a name of its own and an interface on a bridge, in a namespace too: nothing outside changes
and nothing outside can be reached. Ranks are started as torchrun starts them, and find the route to each other by themselves.
Wire bytes are what an interface has sent, so traffic within a host is not in them.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from mesh_equality_test import GOLDEN, training_rows, write_tokens

PREFIX = "moraine-hosts"
RANKS_A_HOST = 2
FEW, MANY = 4, 12  # steps; a step's wire bytes are the difference of two runs, which leaves start and end out
# hosts, mesh
MESHES = [(2, {"ep": 2, "fsdp": 4}), (2, {"ep": 2, "replicate": 2}), (3, {"ep": 2})]
# A checkpoint of about 40 MB, mostly experts, for what loading sends.
CONFIG = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1,
          "head_dim": 64, "hidden_act": "silu", "hidden_size": 256, "intermediate_size": 768, "max_position_embeddings": 1024,
          "mlp_only_layers": [], "moe_intermediate_size": 192, "norm_topk_prob": True, "num_attention_heads": 4, "num_experts": 32,
          "num_experts_per_tok": 4, "num_hidden_layers": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
          "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 4096, "bos_token_id": 1, "eos_token_id": 2}


def ip(*arguments):
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if ended.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {ended.stderr.strip()}")
    return ended.stdout


class Hosts:
    """`count` hosts, 10.77.0.1 and on, joined by a bridge. A context: the namespaces go whatever happens inside."""

    def __init__(self, count):
        base = f"{PREFIX}-{os.getpid()}"
        self.bridge, self.names = f"{base}-bridge", [f"{base}-{i}" for i in range(count)]
        self.worlds = 0

    def __enter__(self):
        try:
            ip("netns", "add", self.bridge)
            ip("-n", self.bridge, "link", "add", "bridge", "type", "bridge")
            ip("-n", self.bridge, "link", "set", "bridge", "up")
            for i, name in enumerate(self.names):
                ip("netns", "add", name)
                ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", f"port{i}", "netns", self.bridge)
                ip("-n", self.bridge, "link", "set", f"port{i}", "master", "bridge", "up")
                ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in [self.bridge, *self.names]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def sent(self):
        """Bytes that each host has put on the wire so far."""
        return [int(ip("netns", "exec", name, "cat", "/sys/class/net/eth0/statistics/tx_bytes")) for name in self.names]

    def run(self, command, hide=None, timeout=120):
        """Runs `command` as a world of RANKS_A_HOST ranks on each host; (what rank 0 printed, bytes sent by each host).

        The hosts share this machine's disk; `hide` is a folder that looks empty on all but the first."""
        self.worlds += 1
        world = len(self.names) * RANKS_A_HOST
        environment = {name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"}
        environment.update(WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(RANKS_A_HOST), MASTER_ADDR="10.77.0.1",
                           MASTER_PORT=str(29500 + self.worlds), OMP_NUM_THREADS="1")
        before = self.sent()
        ranks = []
        try:
            for rank in range(world):
                host, local = divmod(rank, RANKS_A_HOST)
                # Every stage replaces itself by the next, so this process is the rank.
                script = 'hostname "$0" && ' + (f'mount -t tmpfs none "{hide}" && ' if hide and host > 0 else "") + 'exec "$@"'
                ranks.append(subprocess.Popen(
                    ["ip", "netns", "exec", self.names[host], "unshare", "--mount", "--uts", "sh", "-c", script, f"host{host}",
                     *map(str, command)],
                    env=dict(environment, RANK=str(rank), LOCAL_RANK=str(local), GROUP_RANK=str(host)),
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            deadline = time.monotonic() + timeout
            outputs = [process.communicate(timeout=max(1, deadline - time.monotonic())) for process in ranks]
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{' '.join(map(str, command))}: not done after {timeout} s") from None
        finally:
            for process in ranks:
                if process.poll() is None:
                    process.kill()
                    process.communicate()
        if any(process.returncode for process in ranks):
            raise RuntimeError(f"{' '.join(map(str, command))}: exit codes {[p.returncode for p in ranks]}\n" +
                               "".join(error[-800:] for _, error in outputs))
        return outputs[0][0], [after - b for after, b in zip(self.sent(), before)]


def remove_left_over():
    """Namespaces of tests that were killed before they could remove them."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(PREFIX + "-") and not pathlib.Path(f"/proc/{name[len(PREFIX) + 1:].split('-')[0]}").exists():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def skip_reason():
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "unshare", "mount", "hostname") if not shutil.which(tool)]
    if missing:
        return f"there is no {missing[0]}"
    try:
        remove_left_over()
        with Hosts(1) as hosts:
            hosts.sent()
    except OSError as error:
        return f"no network namespaces here: {error}"
    return None


class Test:
    def __init__(self, program, folder):
        self.program, self.folder, self.failures, self.recipes = program, folder, 0, 0
        # A folder that only the first host has when load.mode is rank0.
        self.inputs = folder / "inputs"
        shutil.copytree(GOLDEN / "model", self.inputs / "model")
        shutil.copytree(GOLDEN / "lora" / "adapter", self.inputs / "adapter")
        write_tokens(self.inputs / "tokens.safetensors", training_rows())

    def check(self, ok, text):
        self.failures += not ok
        print(f"{text}{'' if ok else '  FAILED'}", flush=True)

    def recipe(self, mesh, steps, model=None, load=None):
        """A recipe file and the folder it saves to."""
        self.recipes += 1
        out = self.folder / f"run-{self.recipes}"
        path = self.folder / f"recipe-{self.recipes}.json"
        data = {"train": [str(self.inputs / "tokens.safetensors")], "shuffle": False}
        recipe = {"model": {"path": str(model or self.inputs / "model")}, "data": data, "mesh": mesh,
                  "train": {"steps": steps, "batch_size": 6, "learning_rate": 1e-3, "scheduler": "constant"},
                  "load": load or {}, "save": {"dir": str(out)}, "log": {"tensorboard": False}}
        if not model:
            recipe["adapter"] = {"init_from": str(self.inputs / "adapter")}
        path.write_text(json.dumps(recipe))
        return path, out

    def train(self, mesh, steps, hosts=None, load=None, hide=None):
        """Losses, and the bytes that each host sent."""
        path, out = self.recipe(mesh, steps, load=load)
        command, sent = [self.program, "train", path], []
        if hosts:
            _, sent = hosts.run(command, hide)
        else:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"), timeout=120)
        losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert len(losses) == steps, f"{len(losses)} of {steps} steps in {out}"
        return losses, sent

    def meshes(self):
        """Equal losses on every mesh; replicas send each other gradients only."""
        one_process, _ = self.train({}, MANY)
        step_bytes = {}
        for count, mesh in MESHES:
            name = f"{count} hosts x {RANKS_A_HOST}, {', '.join(f'{axis} {n}' for axis, n in mesh.items())}"
            with Hosts(count) as hosts:
                few, sent_few = self.train(mesh, FEW, hosts)
                many, sent_many = self.train(mesh, MANY, hosts)
            difference = max(abs(a - b) for a, b in zip(few + many, one_process[:FEW] + one_process))
            step_bytes[name] = [(m - f) / (MANY - FEW) for m, f in zip(sent_many, sent_few)]
            self.check(difference <= 1e-5, f"{name}: against one process loss {difference:.1e}; KB a step on the wire from each "
                       f"host: {', '.join(f'{n / 1e3:.0f}' for n in step_bytes[name])}")
        sharded, replicas, _ = (sum(sent) for sent in step_bytes.values())
        self.check(replicas < sharded, f"replicas within hosts send {replicas / sharded:.2f} of what shards across hosts do")

    def verify(self, hosts, mesh, mode, model, hide=None):
        path, _ = self.recipe(mesh, 1, model, {"mode": mode, "verify": "full"})
        output, sent = hosts.run([self.program, "verify", path, "--json"], hide)
        ranks = sorted(json.loads(output)["ranks"], key=lambda r: r["rank"])
        self.check(len(ranks) == len(sent) * RANKS_A_HOST and all(r["verified"] and r["mode"] == mode for r in ranks),
                   f"{mode}, {mesh}: {sum(bool(r['verified']) for r in ranks)} of {len(sent) * RANKS_A_HOST} ranks verified")
        by_host = [ranks[i:i + RANKS_A_HOST] for i in range(0, len(ranks), RANKS_A_HOST)]
        return by_host, sent

    def loading(self):
        """What each load mode reads and sends, and that training does not depend on it."""
        config, model = self.folder / "config.json", self.folder / "big"
        config.write_text(json.dumps(CONFIG))
        subprocess.run([self.program, "init", "--config", config, "--out", model], check=True, stdout=subprocess.DEVNULL)
        size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        assert size >= 30e6, size
        sharded, copies = {"ep": 2, "fsdp": 4}, {"ep": 1, "fsdp": 1, "replicate": 4}
        with Hosts(2) as hosts:
            # What a host needs once: its ranks' shards when they differ, the checkpoint when every rank holds all of it.
            for mode, mesh in (("direct", sharded), ("node", sharded), ("node", copies)):
                by_host, sent = self.verify(hosts, mesh, mode, model)
                self.check(max(sent) < size / 10, f"  sent by each host {', '.join(f'{n / 1e6:.2f}' for n in sent)} MB, "
                           f"of a checkpoint of {size / 1e6:.1f} MB")
                if mode == "node":
                    read = [sum(r["bytes_read"] for r in ranks) for ranks in by_host]
                    needed = [min(size, sum(r["shard_bytes"] for r in ranks)) for ranks in by_host]
                    self.check(all(r <= n for r, n in zip(read, needed)), f"  read by each host {[f'{n / 1e6:.2f}' for n in read]} "
                               f"MB, needed {[f'{n / 1e6:.2f}' for n in needed]}")
            by_host, sent = self.verify(hosts, sharded, "rank0", model, hide=model)
            held = sum(r["shard_bytes"] for r in by_host[1])
            self.check(0.95 * held <= sent[0] <= 1.1 * held and sent[1] < size / 10,
                       f"  sent by each host {', '.join(f'{n / 1e6:.2f}' for n in sent)} MB; the second holds {held / 1e6:.2f} MB")
            losses = {mode: self.train(sharded, FEW, hosts, {"mode": mode}, self.inputs if mode == "rank0" else None)[0]
                      for mode in ("direct", "node", "rank0")}
            self.check(losses["node"] == losses["direct"] == losses["rank0"], "losses of the three load modes are equal bit for bit")


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    reason = skip_reason()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as temporary:
        test = Test(program, pathlib.Path(temporary))
        try:
            test.meshes()
            if subprocess.run([program, "verify", "--help"], capture_output=True).returncode == 0:
                test.loading()
            else:
                print("moraine verify is not in this build: load modes are not tested")
        except RuntimeError as error:
            test.check(False, str(error))
    sys.exit(1 if test.failures else 0)


main()
