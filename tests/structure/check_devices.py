"""Checks that the code that computes on a device makes its tensors there and lets the host touch values in known places only.

    check_devices.py [ROOT]        one line for each violation, exit 1 when there is one
    check_devices.py --self-test   plants violations in a temporary tree and expects each to be found

In the rooms ROOMS of src/ a tensor factory (at::empty, at::zeros, …) says where: by another tensor's options() or by device(); what is made
on the host is listed in ON_HOST. Whatever reads values on the host (a pointer, item(), cpu(), shapes that depend on values) is listed in
READS, with how often and why: on a GPU each is a wait or, without one, a crash.
"""
import pathlib
import re
import sys
import tempfile

ROOMS = ("nn", "models", "parallel", "tensor", "train")
FACTORY = re.compile(r"\bat::(?:empty|zeros|ones|full|arange|tensor|eye|scalar_tensor|rand|randn|randint)\(")
SAYS_WHERE = re.compile(r"options|\bdevice\(|\.device\b")
READ = re.compile(r"data_ptr\b|\.item\s*[<(]|\.cpu\(\)|\.to\(at::kCPU\)|\bnonzero\(|masked_select\(|repeat_interleave\([a-z_]+\)")

# file: (how many, why)
ON_HOST = {
    "train/evaluate.cpp": (1, "a sum over batches, of numbers that the host has"),
    "train/step.cpp": (1, "a sum over micro-batches, of numbers that the host has"),
    "train/micro_batch_tokens.cpp": (1, "a GPU's free memory, moved to the device for the ranks' least"),
    "train/trainer.cpp": (2, "a signal's number and the peak of memory, moved to the device for the ranks' largest"),
    "tensor/quantize.cpp": (1, "merge and convert run on the host"),
}
READS = {
    "nn/loss.cpp": (4, "the CPU's kernel; once a micro-batch: which tokens are trained, and the sum of their losses"),
    "nn/norm.cpp": (4, "the CPU's kernel"),
    "nn/rope.cpp": (1, "the CPU's kernel"),
    "nn/row_products.cpp": (1, "the CPU's kernel"),
    "nn/quantized_weight.cpp": (4, "the CPU's kernel"),
    "nn/outer_products.cpp": (1, "the CPU's kernel"),
    "nn/dropout.cpp": (2, "the CPU's kernel"),
    "parallel/expert_parallel.cpp": (8, "the CPU's kernel; rows of each expert: once in a layer's first pass"),
    "tensor/kernel_matrix.h": (2, "for the CPU's kernels"),
    "train/micro_batch_tokens.cpp": (1, "once a run"),
    "train/trainer.cpp": (3, "once a step: whether a signal came; at the end: the peak of memory"),
    "train/evaluate.cpp": (1, "once an evaluation"),
    "train/router_load.cpp": (7, "once a step"),
    "train/step.cpp": (2, "once a step"),
    "tensor/to_device.cpp": (1, "fills pinned memory of the host"),
    "tensor/quantize.cpp": (4, "merge and convert run on the host"),
    "tensor/planned_tensors.cpp": (1, "a meta tensor's kernel of that name"),
}


def without_comments(text):
    return re.sub(r"//[^\n]*", "", text)


def calls(text, pattern):
    """(line number, text of the call with its arguments) of each match."""
    for match in pattern.finditer(text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        yield text.count("\n", 0, match.start()) + 1, text[match.start():end]


def violations(root, on_host=ON_HOST, reads=READS):
    found = {}
    for room in ROOMS:
        for path in sorted((root / "src" / room).rglob("*")):
            if path.suffix not in (".h", ".cpp"):
                continue
            name = path.relative_to(root / "src").as_posix()
            text = without_comments(path.read_text(encoding="utf-8"))
            made = [line for line, call in calls(text, FACTORY) if not SAYS_WHERE.search(call)]
            read = [text.count("\n", 0, match.start()) + 1 for match in READ.finditer(text)]
            found[name] = True
            for lines, listed, what in ((made, on_host, "tensors made without a device"), (read, reads, "reads of values by the host")):
                allowed = listed.get(name, (0, ""))[0]
                if len(lines) != allowed:
                    places = ", ".join(map(str, lines)) or "none"
                    yield f"src/{name}: {len(lines)} {what} (lines {places}), {allowed} listed in tests/structure/check_devices.py"
    for name in sorted((set(on_host) | set(reads)) - set(found)):
        if (root / "src").exists() and not (root / "src" / name).exists():
            yield f"src/{name} is listed in tests/structure/check_devices.py and does not exist"


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "src" / "nn").mkdir(parents=True)
        source = root / "src" / "nn" / "layer.cpp"
        good = "auto a = at::empty({2}, x.options()); auto b = at::zeros({f(1)},\n  at::TensorOptions().device(x.device()));\n"
        for text, expected in ((good, 0), (good + "auto c = at::zeros({2});", 1), (good + "// at::zeros({2})\n", 0),
                               (good + "double d = a.sum().item<double>();", 1), (good + "float* p = a.mutable_data_ptr<float>();", 1),
                               (good + "auto e = at::nonzero(a).cpu();", 1)):
            source.write_text(text)
            lines = list(violations(root, {}, {}))
            if len(lines) != expected:
                print(f"{text!r}: expected {expected}, found {lines}")
                return 1
        if not list(violations(root, {"nn/gone.cpp": (1, "")}, {})):
            print("a listed file that is gone was not found")
            return 1
    print("every planted violation was found")
    return 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    lines = list(violations(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
    print("\n".join(lines) or "tensors are made where they are used, and the host reads values in listed places only")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
