// What this process has asked its peers for lately, so that a hang can be reported as "which collective, which ranks".
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace moraine {

struct CollectiveRecord {
  uint64_t id = 0;
  std::string op;              // named as in c10d
  std::string group;           // the group's name
  std::vector<int64_t> ranks;  // its members
  uint64_t sequence = 0;       // counts the group's collectives from 1: equal on every rank of the group
  int64_t bytes = 0;           // what this rank sends or holds
  std::chrono::steady_clock::time_point started;
  bool done = false;

  // "all_to_all_single on ep (#133, 4.0 MiB)".
  std::string describe() const;
};

// Written by the threads that run collectives and read by the control thread.
class CollectiveLog {
 public:
  // Returns the record's id. `ranks` are the group's members.
  uint64_t start(const std::string& op, const std::string& group, const std::vector<int64_t>& ranks, int64_t bytes);
  // Lets the log ask whether a started collective has ended although nobody has waited for it yet. Called under the
  // log's lock from any thread.
  void attach(uint64_t id, std::function<bool()> is_completed);
  // The collective's wait() has returned. One that still runs on a device stays pending until is_completed().
  void finish(uint64_t id);

  // The longest-running collective that began before `before` and has not ended.
  std::optional<CollectiveRecord> oldest_pending(std::chrono::steady_clock::time_point before);
  std::optional<CollectiveRecord> find(uint64_t id) const;
  // The last `count`, newest first.
  std::vector<CollectiveRecord> last(size_t count) const;
  // For each group the number of collectives started.
  std::map<std::string, uint64_t> sequences() const;

 private:
  struct Pending {
    CollectiveRecord record;
    std::function<bool()> is_completed;
    bool waited = false;
  };
  void retire(std::map<uint64_t, Pending>::iterator it);

  mutable std::mutex mutex_;
  uint64_t next_id_ = 1;
  std::map<std::string, uint64_t> sequences_;
  std::map<uint64_t, Pending> pending_;
  std::deque<CollectiveRecord> recent_;  // ended or not, oldest first
};

}  // namespace moraine
