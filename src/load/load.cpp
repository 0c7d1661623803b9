#include "load/load.h"

#include <chrono>

#include "load/reader.h"
#include "load/verify.h"
#include "parallel/weight_store.h"

namespace moraine {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Verify parse_verify(const std::string& name) {
  if (name == "full") return Verify::kFull;
  return name == "placement" ? Verify::kPlacement : Verify::kOff;
}

LoadedShards load_shards(const LoadPlan& plan, const CheckpointIndex& index, at::Device device, Verify verify,
                         int num_threads) {
  LoadedShards loaded;
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::span<std::byte>> spans;
  for (const ShardPlan& shard : plan.shards) {
    at::Tensor bytes = allocate_image_bytes(shard.shard.size(), at::kCPU);
    spans.emplace_back(static_cast<std::byte*>(bytes.mutable_data_ptr()), bytes.numel());
    loaded.bytes.push_back(std::move(bytes));
  }
  execute_reads(plan, index, spans, num_threads);
  loaded.report.bytes_read = plan.read_bytes;
  loaded.report.seconds = seconds_since(start);

  const auto verify_start = std::chrono::steady_clock::now();
  if (verify != Verify::kOff) {
    loaded.report.bytes_verify_read = verify_shards(plan, index, spans, verify, num_threads);
    loaded.report.verified = verify == Verify::kFull;
  }
  loaded.report.verify_seconds = seconds_since(verify_start);
  if (!device.is_cpu()) {
    for (at::Tensor& bytes : loaded.bytes) bytes = bytes.to(device);
  }
  return loaded;
}

}  // namespace moraine
