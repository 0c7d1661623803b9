#include "distributed/control/collective_log.h"

#include <fmt/format.h>

#include "base/bytes.h"

namespace moraine {

namespace {
constexpr size_t kKept = 32;
}

std::string CollectiveRecord::describe() const {
  return fmt::format("{} on {} (#{}, {})", op, group, sequence, format_bytes(static_cast<uint64_t>(bytes)));
}

uint64_t CollectiveLog::start(const std::string& op, const std::string& group, const std::vector<int64_t>& ranks,
                              int64_t bytes) {
  const std::lock_guard lock(mutex_);
  CollectiveRecord record{.id = next_id_++,
                          .op = op,
                          .group = group,
                          .ranks = ranks,
                          .sequence = ++sequences_[group],
                          .bytes = bytes,
                          .started = std::chrono::steady_clock::now()};
  recent_.push_back(record);
  if (recent_.size() > kKept) recent_.pop_front();
  const uint64_t id = record.id;
  pending_.emplace(id, Pending{.record = std::move(record), .is_completed = {}});
  // Waited for but still on the device when wait() returned: look again now and then, so that the list stays short.
  for (auto it = pending_.begin(); it != pending_.end();) {
    auto current = it++;
    if (current->second.waited && current->second.is_completed()) retire(current);
  }
  return id;
}

void CollectiveLog::attach(uint64_t id, std::function<bool()> is_completed) {
  const std::lock_guard lock(mutex_);
  if (auto it = pending_.find(id); it != pending_.end()) it->second.is_completed = std::move(is_completed);
}

void CollectiveLog::finish(uint64_t id) {
  const std::lock_guard lock(mutex_);
  auto it = pending_.find(id);
  if (it == pending_.end()) return;
  it->second.waited = true;
  if (!it->second.is_completed || it->second.is_completed()) retire(it);
}

void CollectiveLog::retire(std::map<uint64_t, Pending>::iterator it) {
  for (CollectiveRecord& record : recent_) {
    if (record.id == it->first) record.done = true;
  }
  pending_.erase(it);
}

std::optional<CollectiveRecord> CollectiveLog::oldest_pending(std::chrono::steady_clock::time_point before) {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, pending] : pending_) {
    if (pending.record.started >= before) break;  // ids rise with time
    if (!pending.is_completed || !pending.is_completed()) return pending.record;
  }
  return std::nullopt;
}

std::optional<CollectiveRecord> CollectiveLog::find(uint64_t id) const {
  const std::lock_guard lock(mutex_);
  if (auto it = pending_.find(id); it != pending_.end()) return it->second.record;
  for (const CollectiveRecord& record : recent_) {
    if (record.id == id) return record;
  }
  return std::nullopt;
}

std::vector<CollectiveRecord> CollectiveLog::last(size_t count) const {
  const std::lock_guard lock(mutex_);
  std::vector<CollectiveRecord> records(recent_.rbegin(), recent_.rend());
  if (records.size() > count) records.resize(count);
  return records;
}

std::map<std::string, uint64_t> CollectiveLog::sequences() const {
  const std::lock_guard lock(mutex_);
  return sequences_;
}

}  // namespace moraine
