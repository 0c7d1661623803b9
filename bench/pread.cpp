// Plain reads, by which load.py warms page cache and memory. PROCESSES processes of THREADS threads read disjoint parts of every
// file, 8 MiB at a time, into fresh memory of huge pages.
//
//   pread PROCESSES THREADS [hold] FILE...     prints {"seconds": of the slowest process, "bytes": of all}
//
// With `hold` the memory is kept until standard input ends.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr uint64_t kRead = 8 << 20, kHugePage = 2 << 20;

struct Part {
  int file;
  uint64_t offset, size;
  char* to;
};

struct Result {
  double seconds;
  uint64_t bytes;
};

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

char* fresh_memory(uint64_t size) {
  // One huge page more, so that the first byte can be aligned to one.
  void* memory = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) die("mmap");
  const uint64_t address = (reinterpret_cast<uint64_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  char* aligned = reinterpret_cast<char*>(address);
  madvise(aligned, size, MADV_HUGEPAGE);
  return aligned;
}

Result read_share(int process, int processes, int threads, const std::vector<const char*>& names) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<Part> parts;
  uint64_t total = 0;
  for (const char* name : names) {
    const int file = open(name, O_RDONLY);
    struct stat info;
    if (file < 0 || fstat(file, &info) != 0) die(name);
    const uint64_t size = static_cast<uint64_t>(info.st_size);
    const uint64_t begin = size * process / processes, end = size * (process + 1) / processes;
    for (uint64_t at = begin; at < end; at += kRead) parts.push_back({file, at, std::min(kRead, end - at), nullptr});
    total += end - begin;
  }
  char* to = fresh_memory(total);
  for (Part& part : parts) {
    part.to = to;
    to += part.size;
  }
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < parts.size(); i = next++) {
      for (Part part = parts[i]; part.size > 0;) {
        const ssize_t n = pread(part.file, part.to, part.size, static_cast<off_t>(part.offset));
        if (n <= 0) die("pread");
        part.offset += n, part.to += n, part.size -= n;
      }
    }
  };
  std::vector<std::thread> workers;
  for (int i = 1; i < threads; ++i) workers.emplace_back(work);
  work();
  for (std::thread& worker : workers) worker.join();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), total};
}

}  // namespace

int main(int argc, char** argv) {
  const int processes = argc > 3 ? std::atoi(argv[1]) : 0, threads = argc > 3 ? std::atoi(argv[2]) : 0;
  if (processes < 1 || threads < 1) {
    std::fprintf(stderr, "usage: pread PROCESSES THREADS FILE...\n");
    return 2;
  }
  const bool hold = std::string(argv[3]) == "hold";
  const std::vector<const char*> names(argv + 3 + hold, argv + argc);
  void* shared = mmap(nullptr, processes * sizeof(Result), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) die("mmap");
  Result* results = static_cast<Result*>(shared);
  int done[2];
  if (pipe(done) != 0) die("pipe");
  for (int i = 0; i < processes; ++i) {
    const pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
      results[i] = read_share(i, processes, threads, names);
      char byte = 0;
      if (write(done[1], &byte, 1) != 1) die("write");
      while (hold && read(STDIN_FILENO, &byte, 1) > 0) {
      }
      _exit(0);
    }
  }
  close(done[1]);
  char byte = 0;
  for (int i = 0; i < processes; ++i) {
    if (read(done[0], &byte, 1) != 1) return 1;  // the child has said why
  }
  Result all{0, 0};
  for (int i = 0; i < processes; ++i) {
    all.seconds = std::max(all.seconds, results[i].seconds);
    all.bytes += results[i].bytes;
  }
  std::printf("{\"seconds\": %.4f, \"bytes\": %llu}\n", all.seconds, static_cast<unsigned long long>(all.bytes));
  std::fflush(stdout);
  while (wait(nullptr) > 0) {
  }
  return 0;
}
