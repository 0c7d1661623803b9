#include "checkpoint/reader.h"

#include <algorithm>

#include "base/workers.h"
#include "checkpoint/shared_reads.h"

namespace moraine {
namespace {

// Larger pieces than this are cut, so that the workers share the load evenly.
constexpr uint64_t kMaxRead = uint64_t{8} << 20;

struct Job {
  FileRange from;
  std::span<std::byte> into;
};

bool follows(const Job& last, const FileRange& from, const std::byte* into) {
  return !from.converts() && !last.from.converts() && last.from.file == from.file && last.from.end() == from.offset &&
         last.into.data() + last.into.size() == into && last.from.nbytes + from.nbytes <= kMaxRead;
}

std::vector<Job> make_jobs(const LoadPlan& plan, const ShardSpans& shards) {
  std::vector<Job> jobs;
  for (const SharedRead& read : merge_plans({plan}, kMaxRead)) {
    const Target& target = read.targets.front();
    const auto into = shards[target.image].subspan(target.shard_offset, read.from.landed_nbytes());
    if (!jobs.empty() && follows(jobs.back(), read.from, into.data())) {
      Job& last = jobs.back();
      last.from.nbytes += read.from.nbytes;
      last.into = {last.into.data(), last.into.size() + into.size()};
    } else {
      jobs.push_back({read.from, into});
    }
  }
  return jobs;
}

}  // namespace

void execute_reads(const LoadPlan& plan, const CheckpointFiles& files, const ShardSpans& shards, int num_threads,
                   const BeforeRead& before_read) {
  const std::vector<Job> jobs = make_jobs(plan, shards);
  for_each_item(jobs.size(), num_threads, [&](size_t i) {
    if (before_read) before_read();
    files.read(jobs[i].from, jobs[i].into);
  });
}

}  // namespace moraine
