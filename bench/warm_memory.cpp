// Reads files into fresh memory of huge pages, one share per process, says so with a line, and holds the memory until
// standard input ends: so that the page cache and a virtual machine's memory are there for what load.py measures next.
//
//   warm_memory PROCESSES FILE...
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr uint64_t kRead = 8 << 20;

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

void read_share(const char* name, int process, int processes) {
  const int file = open(name, O_RDONLY);
  struct stat info;
  if (file < 0 || fstat(file, &info) != 0) die(name);
  const uint64_t size = static_cast<uint64_t>(info.st_size);
  const uint64_t begin = size * process / processes, end = size * (process + 1) / processes;
  if (begin == end) return;
  void* memory = mmap(nullptr, end - begin, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) die("mmap");
  madvise(memory, end - begin, MADV_HUGEPAGE);
  char* to = static_cast<char*>(memory);
  for (uint64_t at = begin; at < end;) {
    const ssize_t n = pread(file, to + (at - begin), std::min(kRead, end - at), static_cast<off_t>(at));
    if (n <= 0) die(name);
    at += n;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int processes = argc > 2 ? std::atoi(argv[1]) : 0;
  if (processes < 1) {
    std::fprintf(stderr, "usage: warm_memory PROCESSES FILE...\n");
    return 2;
  }
  int done[2];
  if (pipe(done) != 0) die("pipe");
  char byte = 0;
  for (int process = 0; process < processes; ++process) {
    const pid_t child = fork();
    if (child < 0) die("fork");
    if (child > 0) continue;
    for (int i = 2; i < argc; ++i) read_share(argv[i], process, processes);
    if (write(done[1], &byte, 1) != 1) die("write");
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    _exit(0);
  }
  close(done[1]);
  for (int process = 0; process < processes; ++process)
    if (read(done[0], &byte, 1) != 1) return 1;  // the child has said why
  std::puts("warm");
  std::fflush(stdout);
  while (wait(nullptr) > 0) {
  }
  return 0;
}
