#include "load/reader.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/workers.h"
#include "parallel/torch_dtype.h"

namespace moraine {
namespace {

// Larger pieces than this are cut, so that the workers share the load evenly.
constexpr uint64_t kMaxRead = uint64_t{8} << 20;

// A run of ranges read by one pread, or one piece of a converted range.
struct Job {
  int file;
  uint64_t file_offset, file_nbytes;
  std::byte* into;
  DType stored, wanted;
};

std::vector<Job> make_jobs(const LoadPlan& plan, const std::vector<std::span<std::byte>>& buffers) {
  std::vector<Job> jobs;
  for (const ReadRange& r : plan.reads) {
    std::byte* into = buffers[r.image].data() + r.shard_offset;
    if (r.stored == r.wanted && !jobs.empty()) {
      Job& last = jobs.back();
      if (last.stored == r.stored && last.wanted == last.stored && last.file == r.file &&
          last.file_offset + last.file_nbytes == r.file_offset && last.into + last.file_nbytes == into &&
          last.file_nbytes + r.file_nbytes <= kMaxRead) {
        last.file_nbytes += r.file_nbytes;
        continue;
      }
    }
    const uint64_t stored_size = dtype_bits(r.stored) / 8, wanted_size = dtype_bits(r.wanted) / 8;
    for (uint64_t done = 0; done < r.file_nbytes;) {
      uint64_t n = std::min(kMaxRead, r.file_nbytes - done);
      jobs.push_back({r.file, r.file_offset + done, n, into + done / stored_size * wanted_size, r.stored, r.wanted});
      done += n;
    }
  }
  return jobs;
}

void convert(std::byte* from, DType stored, std::byte* to, DType wanted, int64_t count) {
  at::NoGradGuard no_grad;
  at::Tensor source = at::from_blob(from, {count}, torch_dtype(stored));
  at::from_blob(to, {count}, torch_dtype(wanted)).copy_(source);
}

void run_job(const Job& job, const std::vector<File>& files) {
  if (job.stored == job.wanted) {
    files[job.file].read_exact({job.into, job.file_nbytes}, job.file_offset);
    return;
  }
  std::vector<std::byte> staging(job.file_nbytes);
  files[job.file].read_exact(staging, job.file_offset);
  convert(staging.data(), job.stored, job.into, job.wanted, job.file_nbytes * 8 / dtype_bits(job.stored));
}

}  // namespace

void execute_reads(const LoadPlan& plan, const CheckpointIndex& index, const std::vector<std::span<std::byte>>& buffers,
                   int num_threads) {
  std::vector<File> files;
  for (const SafetensorsHeader& header : index.files) files.emplace_back(header.path);
  const std::vector<Job> jobs = make_jobs(plan, buffers);
  for_each_item(jobs.size(), num_threads, [&](size_t i) { run_job(jobs[i], files); });
}

std::vector<std::byte> read_converted(const ReadRange& range, const CheckpointIndex& index) {
  File file(index.files[range.file].path);
  std::vector<std::byte> stored(range.file_nbytes);
  file.read_exact(stored, range.file_offset);
  if (range.stored == range.wanted) return stored;
  std::vector<std::byte> wanted(range.shard_nbytes);
  convert(stored.data(), range.stored, wanted.data(), range.wanted, range.shard_nbytes * 8 / dtype_bits(range.wanted));
  return wanted;
}

}  // namespace moraine
