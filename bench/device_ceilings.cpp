// What a device can do at most, by libtorch's own kernels: one line of JSON for each figure, for scripts/gpu_check.py.
//
//   device_ceilings cuda|cpu       cpu computes tiny shapes, to try the program
#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string_view>

namespace {

struct Ceilings {
  at::Device device;
  int64_t scale;  // sides are so many times smaller

  void wait() const {
    if (!device.is_cpu()) at::accelerator::synchronizeDevice(device.index());
  }
  // Median seconds of one call.
  double seconds(const std::function<void()>& work, int calls) const {
    std::vector<double> times;
    for (int round = 0; round < 5; ++round) {
      wait();
      const auto start = std::chrono::steady_clock::now();
      for (int call = 0; call < calls; ++call) work();
      wait();
      times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }
  void say(const std::string& name, double value, const char* unit) const {
    fmt::print("{{\"name\": \"{}\", \"value\": {:.4g}, \"unit\": \"{}\"}}\n", name, value, unit);
  }
  at::Tensor bf16(std::vector<int64_t> shape) const {
    return at::randn(shape, at::TensorOptions().device(device)).to(at::kBFloat16);
  }

  void launch() const {
    const at::Tensor x = at::zeros({1}, at::TensorOptions().device(device));
    say("one small kernel after another", 1e6 * seconds([&] { x.add_(1); }, 2000), "us");
  }
  void copy() const {
    const int64_t bytes = (int64_t{1} << 30) / scale / scale;
    const at::Tensor from = at::zeros({bytes}, at::TensorOptions().device(device).dtype(at::kByte)), to = from.clone();
    say("copy within the device, read and written", 2e-9 * bytes / seconds([&] { to.copy_(from); }, 10), "GB/s");
    const at::Tensor host = at::zeros({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(!device.is_cpu()));
    say("copy from pinned memory", 1e-9 * bytes / seconds([&] { to.copy_(host, /*non_blocking=*/true); }, 5), "GB/s");
  }
  void product() const {
    const int64_t side = 8192 / scale;
    const at::Tensor a = bf16({side, side}), b = bf16({side, side});
    say(fmt::format("bf16 product {0} x {0} x {0}", side),
        2e-12 * side * side * side / seconds([&] { at::mm(a, b); }, 10), "TFLOP/s");
  }
  // The experts of Qwen3-30B-A3B with 8,192 tokens, 8 experts each.
  void grouped_product(int64_t in, int64_t out) const {
    const int64_t experts = 128, rows = 65536 / scale;
    in /= scale, out /= scale;
    const at::Tensor x = bf16({rows, in}), w = bf16({experts, out, in});
    const at::Tensor ends =
        at::arange(1, experts + 1, at::TensorOptions().dtype(at::kInt).device(device)).mul_(rows / experts);
    say(fmt::format("bf16 grouped product of {} rows, {} experts {} x {}", rows, experts, out, in),
        2e-12 * rows * in * out / seconds([&] { at::_grouped_mm(x, w.transpose(1, 2), ends); }, 5), "TFLOP/s");
  }
  void attention(int64_t tokens) const {
    const int64_t heads = 32, width = 128;
    tokens /= scale;
    const at::Tensor q = bf16({1, heads, tokens, width}), k = bf16({1, heads, tokens, width}), v = k.clone();
    const double flop = 2.0 * heads * tokens * tokens * width;  // causal: half of 4
    say(fmt::format("bf16 causal attention of {} tokens, {} heads of {}", tokens, heads, width),
        1e-12 * flop / seconds([&] { at::scaled_dot_product_attention(q, k, v, {}, 0.0, true); }, 5), "TFLOP/s");
  }
};

}  // namespace

int main(int argc, char** argv) {
  const bool cuda = argc == 2 && std::string_view(argv[1]) == "cuda";
  if (!cuda && !(argc == 2 && std::string_view(argv[1]) == "cpu")) {
    fmt::print(stderr, "device_ceilings cuda|cpu\n");
    return 2;
  }
  const at::NoGradGuard no_grad;
  const Ceilings ceilings{cuda ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU), cuda ? 1 : 16};
  ceilings.launch();
  ceilings.copy();
  ceilings.product();
  ceilings.grouped_product(2048, 1536);
  ceilings.grouped_product(768, 2048);
  for (const int64_t tokens : {1024, 4096, 16384}) ceilings.attention(cuda ? tokens : std::min<int64_t>(tokens, 4096));
  return 0;
}
