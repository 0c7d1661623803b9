#include "plan/device_rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <variant>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"

namespace moraine {
namespace {

constexpr double kTera = 1e12, kGiga = 1e9;
constexpr uint64_t kMebi = 1 << 20, kGibi = 1 << 30;

// The parts that are reached and the launch time are assumptions until a GPU has been measured. Where they come from:
// libtorch's elementwise kernels at about 3.0 of 4.8 TB/s and its bf16 products at 650 of 989 TFLOP/s are common
// figures on H200; 350 TFLOP/s of its grouped products are published for H100 at the shapes of Qwen3-30B-A3B; flash
// attention 2 reaches 240 (backwards) to 300 there; 350 of 450 GB/s is what NCCL's maintainers name for NVLink; fp32
// products of LoRA's few columns are taken to reach a quarter. Memory: CUDA's context is published as 300 to 550 MiB,
// taken as 600 with cuBLAS's workspace of 32 MiB. NCCL: 544 to 688 MB for each communicator on A100, and 3.28 GB for
// the first all-to-all among 8 H100, thus 447 MiB for each peer.
DeviceRates gpu(const char* name, const char* says, uint64_t memory, double half, double fp8, double floats,
                double memory_rate, double nvlink) {
  DeviceRates rates;
  rates.name = name, rates.says = says;
  rates.memory = memory;
  rates.half_flops = half * kTera, rates.fp8_flops = fp8 * kTera, rates.float_flops = floats * kTera;
  rates.memory_rate = memory_rate * kTera;
  rates.nvlink = nvlink * kGiga;
  rates.network = 50 * kGiga;  // one 400 Gbit/s adapter for each GPU, as DGX and HGX systems have
  rates.pcie = 55 * kGiga;     // of the 63 of PCIe 5.0 with 16 lanes
  rates.launch = 5e-6;
  rates.product_part = 0.66, rates.grouped_part = 0.35, rates.attention_part = 0.27, rates.float_part = 0.25;
  rates.memory_part = 0.62, rates.link_part = 0.78;
  rates.context = 632 * kMebi, rates.communicator = 600 * kMebi, rates.exchange_peer = 447 * kMebi;
  return rates;
}

DeviceRates cpu() {
  DeviceRates rates;
  rates.name = "cpu", rates.says = "round figures of one core";
  rates.is_gpu = false;
  rates.half_flops = rates.fp8_flops = rates.float_flops = 60 * kGiga;
  rates.memory_rate = 6 * kGiga;
  rates.nvlink = rates.network = 1 * kGiga;  // Gloo
  rates.pcie = 6 * kGiga;                    // copies within memory
  rates.launch = 4e-6;
  return rates;
}

using Field = std::variant<uint64_t DeviceRates::*, double DeviceRates::*>;
enum class Unit { kBytes, kBytesPerSecond, kFlops, kSeconds };
struct Key {
  const char* name;
  Field field;
  Unit unit;
};
const Key kKeys[] = {
    {"memory", &DeviceRates::memory, Unit::kBytes},
    {"host", &DeviceRates::host_memory, Unit::kBytes},
    {"bf16", &DeviceRates::half_flops, Unit::kFlops},
    {"fp8", &DeviceRates::fp8_flops, Unit::kFlops},
    {"fp32", &DeviceRates::float_flops, Unit::kFlops},
    {"hbm", &DeviceRates::memory_rate, Unit::kBytesPerSecond},
    {"nvlink", &DeviceRates::nvlink, Unit::kBytesPerSecond},
    {"network", &DeviceRates::network, Unit::kBytesPerSecond},
    {"pcie", &DeviceRates::pcie, Unit::kBytesPerSecond},
    {"launch", &DeviceRates::launch, Unit::kSeconds},
    {"context", &DeviceRates::context, Unit::kBytes},
    {"communicator", &DeviceRates::communicator, Unit::kBytes},
    {"exchange_peer", &DeviceRates::exchange_peer, Unit::kBytes},
};

const char* example_of(Unit unit) {
  switch (unit) {
    case Unit::kBytes:
      return "128GiB";
    case Unit::kBytesPerSecond:
      return "55GB/s";
    case Unit::kFlops:
      return "989TFLOP/s";
    case Unit::kSeconds:
      return "5us";
  }
  MORAINE_ASSERT(false, "unknown unit");
}

// A number followed by one of `units`.
std::optional<double> number_in(std::string_view text, const std::vector<std::pair<std::string_view, double>>& units) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return std::nullopt;
  const std::string_view rest = text.substr(static_cast<size_t>(end - text.data()));
  for (const auto& [unit, factor] : units)
    if (rest == unit) return number * factor;
  return std::nullopt;
}

std::optional<double> value_in(Unit unit, const std::string& text) {
  switch (unit) {
    case Unit::kFlops:
      return number_in(text, {{"TFLOP/s", 1e12}, {"PFLOP/s", 1e15}, {"GFLOP/s", 1e9}});
    case Unit::kSeconds:
      return number_in(text, {{"us", 1e-6}, {"µs", 1e-6}, {"ms", 1e-3}, {"s", 1}});
    case Unit::kBytesPerSecond:
      if (!text.ends_with("/s")) return std::nullopt;
      [[fallthrough]];
    case Unit::kBytes: {
      const auto bytes = parse_bytes(unit == Unit::kBytes ? text : text.substr(0, text.size() - 2));
      return bytes ? std::optional(static_cast<double>(*bytes)) : std::nullopt;
    }
  }
  MORAINE_ASSERT(false, "unknown unit");
}

void set_figure(DeviceRates& rates, const std::string& flag, const std::string& text) {
  const size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  const auto key = std::find_if(std::begin(kKeys), std::end(kKeys), [&](const Key& k) { return k.name == name; });
  if (key == std::end(kKeys) || equals == text.npos) {
    throw input_error(flag, quote_text(text) + " is no figure of a device",
                      "KEY=VALUE, where KEY is one of " + join_words(rate_keys()));
  }
  const std::optional<double> value = value_in(key->unit, text.substr(equals + 1));
  if (!value || !(*value > 0)) {
    throw input_error(flag, fmt::format("{} is no value of {}", quote_text(text.substr(equals + 1)), name),
                      fmt::format("for example {}={}", name, example_of(key->unit)));
  }
  std::visit([&](auto field) { rates.*field = static_cast<std::decay_t<decltype(rates.*field)>>(*value); }, key->field);
}

}  // namespace

double DeviceRates::flops_reached(Product product) const {
  switch (product) {
    case Product::kNone:
    case Product::kHalf:
      return half_flops * product_part;
    case Product::kGrouped:
      return half_flops * grouped_part;
    case Product::kAttention:
      return half_flops * attention_part;
    case Product::kFloat:
      return float_flops * float_part;
  }
  MORAINE_ASSERT(false, "unknown product");
}

const std::vector<DeviceRates>& known_devices() {
  // Of the memory on the label (80, 141, 180 GB) a process finds a few percent less.
  static const std::vector<DeviceRates> table{
      gpu("h100", "NVIDIA's data sheet of H100 SXM", 78 * kGibi, 989, 1979, 67, 3.35, 450),
      gpu("h200", "NVIDIA's data sheet of H200 SXM", 139 * kGibi, 989, 1979, 67, 4.8, 450),
      gpu("b200", "NVIDIA's data sheet of HGX B200", 177 * kGibi, 2250, 4500, 75, 8.0, 900),
      cpu(),
  };
  return table;
}

std::vector<std::string> rate_keys() {
  std::vector<std::string> names;
  for (const Key& key : kKeys) names.emplace_back(key.name);
  return names;
}

DeviceRates parse_device(const std::string& flag, const std::string& text) {
  size_t begin = std::min(text.find(','), text.size());
  const std::string name = text.substr(0, begin);
  const auto& devices = known_devices();
  const auto device = std::find_if(devices.begin(), devices.end(), [&](const auto& d) { return d.name == name; });
  if (device == devices.end()) {
    std::vector<std::string> names;
    for (const DeviceRates& known : devices) names.push_back(known.name);
    throw input_error(flag, quote_text(name) + " is not known",
                      fmt::format("one of {}; other devices by their figures: h100,memory=46GiB,bf16=362TFLOP/s,…",
                                  join_words(names)));
  }
  DeviceRates rates = *device;
  while (begin < text.size()) {
    const size_t end = std::min(text.find(',', begin + 1), text.size());
    set_figure(rates, flag, text.substr(begin + 1, end - begin - 1));
    begin = end;
  }
  return rates;
}

}  // namespace moraine
