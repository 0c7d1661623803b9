#include "train/load_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/bytes.h"
#include "base/log.h"
#include "distributed/control/launch.h"

namespace moraine {
namespace {

OrderedJson to_json(const LoadReport& report, int64_t rank) {
  return {{"rank", rank},
          {"host", host_name()},
          {"mode", word_of(report.mode)},
          {"transport",
           report.transport == Transport::kAuto ? OrderedJson(nullptr) : OrderedJson(word_of(report.transport))},
          {"bytes_read", report.bytes_read},
          {"bytes_verify_read", report.bytes_verify_read},
          {"bytes_received", report.bytes_received},
          {"seconds", report.seconds + report.verify_seconds},
          {"read_seconds", report.seconds},
          {"peak_rss_bytes", report.peak_rss_bytes},
          {"shard_bytes", report.shard_bytes},
          {"verified", report.verified}};
}

}  // namespace

std::vector<OrderedJson> gather_load_reports(const LoadReport& own, MeshGroups& groups) {
  const int64_t rank = groups.world->rank();
  const OrderedJson own_json = to_json(own, rank);
  const auto key = [](int64_t r) { return fmt::format("load/report/{}", r); };
  if (rank != 0) {
    groups.control->put(key(rank), own_json.dump());
    return {};
  }
  std::vector<OrderedJson> reports{own_json};
  for (int64_t other = 1; other < groups.world->size(); ++other) {
    const std::string text =
        groups.control->wait_for(key(other), "the load report of " + groups.control->rank_text(other));
    reports.push_back(parse_ordered_json(text, "load report"));
  }
  return reports;
}

void print_skipped(const std::vector<SkippedTensor>& skipped) {
  std::map<std::string, int64_t> count_of_reason;
  for (const SkippedTensor& s : skipped) ++count_of_reason[s.reason];
  for (const auto& [reason, count] : count_of_reason)
    log_info("not loaded: {} tensor{}, {}", count, count == 1 ? "" : "s", reason);
}

void print_load_reports(const std::vector<OrderedJson>& reports) {
  uint64_t read = 0, received = 0, largest_shard = 0, peak = 0;
  double read_seconds = 0, seconds = 0;
  bool verified = true;
  for (const OrderedJson& r : reports) {
    read += r["bytes_read"].get<uint64_t>();
    received += r["bytes_received"].get<uint64_t>();
    largest_shard = std::max(largest_shard, r["shard_bytes"].get<uint64_t>());
    peak = std::max(peak, r["peak_rss_bytes"].get<uint64_t>());
    read_seconds = std::max(read_seconds, r["read_seconds"].get<double>());
    seconds = std::max(seconds, r["seconds"].get<double>());
    verified &= r["verified"].get<bool>();
  }
  log_info(
      "loaded: mode {}, {} read{} in {:.2f} s ({:.2f} GB/s){}; a rank holds {}, peak memory {}",
      reports.front()["mode"].get<std::string>(), format_bytes(read),
      received ? fmt::format(", {} passed on", format_bytes(received)) : "", read_seconds,
      read / std::max(read_seconds, 1e-9) / 1e9,
      verified ? fmt::format(", every byte verified in {:.2f} s", seconds - read_seconds) : ", not verified in full",
      format_bytes(largest_shard), format_bytes(peak));
}

}  // namespace moraine
