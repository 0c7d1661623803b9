#include "device/device_streams.h"

#include <fmt/format.h>

#include <cstdlib>
#include <mutex>
#include <optional>

namespace moraine::testing_support {
namespace {

const c10::Device kDevice{c10::kPrivateUse1, 0};
constexpr c10::StreamId kStreams = 8;  // of the pool, besides the default stream 0

thread_local c10::StreamId current_stream = 0;

struct Clocks {
  std::mutex mutex;
  std::map<c10::StreamId, StreamTimes> of_stream;
  StreamTimes of_host;  // what the host has waited for
  c10::StreamId next_of_pool = 0;
  std::vector<std::string> faults;
  bool end_at_faults = false;
};
Clocks& clocks() {
  static Clocks* const kept = new Clocks;
  return *kept;
}

void follow(StreamTimes& times, const StreamTimes& others) {
  for (const auto& [stream, time] : others) times[stream] = std::max(times[stream], time);
}

// A stream of `uses` that `times` does not cover.
std::optional<c10::StreamId> uncovered(const StreamTimes& uses, const StreamTimes& times) {
  for (const auto& [stream, time] : uses) {
    const auto known = times.find(stream);
    if (known == times.end() || known->second < time) return stream;
  }
  return std::nullopt;
}

c10::Stream stream_of(c10::StreamId id) { return c10::Stream(c10::Stream::UNSAFE, kDevice, id); }

struct Event {
  StreamTimes times;
};

struct Guard : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kPrivateUse1; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }

  c10::Stream getStream(c10::Device) const override { return stream_of(current_stream); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream_of(0); }
  c10::Stream getNewStream(c10::Device, int) const override {
    const std::lock_guard lock(clocks().mutex);
    return stream_of(clocks().next_of_pool++ % kStreams + 1);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getNewStream(device, 0); }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    return stream_of(std::exchange(current_stream, stream.id()));
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex, const c10::EventFlag) const override {
    const std::lock_guard lock(clocks().mutex);
    if (!*event) *event = new Event;
    static_cast<Event*>(*event)->times = clocks().of_stream[stream.id()];
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (!event) return;
    const std::lock_guard lock(clocks().mutex);
    follow(clocks().of_stream[stream.id()], static_cast<Event*>(event)->times);
  }
  void synchronizeEvent(void* event) const override {
    if (!event) return;
    const std::lock_guard lock(clocks().mutex);
    follow(clocks().of_host, static_cast<Event*>(event)->times);
  }
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream& stream) const override {
    const std::lock_guard lock(clocks().mutex);
    follow(clocks().of_host, clocks().of_stream[stream.id()]);
  }
  void synchronizeDevice(const c10::DeviceIndex) const override {
    const std::lock_guard lock(clocks().mutex);
    for (const auto& [stream, times] : clocks().of_stream) follow(clocks().of_host, times);
  }
};

}  // namespace

void begin_kernel() {
  const std::lock_guard lock(clocks().mutex);
  StreamTimes& times = clocks().of_stream[current_stream];
  follow(times, clocks().of_host);
  ++times[current_stream];
}

void wait_on_host() {
  const std::lock_guard lock(clocks().mutex);
  follow(clocks().of_host, clocks().of_stream[current_stream]);
}

StreamUses StreamUses::allocated_now() {
  StreamUses uses;
  uses.allocated_by_ = current_stream;
  return uses;
}

void StreamUses::add(bool writes) {
  const std::lock_guard lock(clocks().mutex);
  const StreamTimes& times = clocks().of_stream[current_stream];
  std::optional<c10::StreamId> other = uncovered(written_, times);
  TORCH_CHECK(!other, "test device: stream ", current_stream, " uses memory that stream ", *other,
              " may still be writing: no event orders them");
  if (writes) {
    other = uncovered(read_, times);
    TORCH_CHECK(!other, "test device: stream ", current_stream, " writes memory that stream ", *other,
                " may still be reading: no event orders them");
    read_.clear();
    written_ = {{current_stream, times.at(current_stream)}};
  } else {
    read_[current_stream] = times.at(current_stream);
  }
}

void StreamUses::check_free() const {
  const std::lock_guard lock(clocks().mutex);
  StreamTimes times = clocks().of_stream[allocated_by_];
  follow(times, clocks().of_host);
  StreamTimes uses = written_;
  follow(uses, read_);
  const auto other = uncovered(uses, times);
  if (!other) return;
  clocks().faults.push_back(
      fmt::format("memory of stream {} is freed while stream {} may still use it", allocated_by_, *other));
  if (!clocks().end_at_faults) return;
  fmt::print(stderr, "test device: {}\n", clocks().faults.back());
  std::abort();
}

std::vector<std::string> take_faults() {
  const std::lock_guard lock(clocks().mutex);
  return std::exchange(clocks().faults, {});
}

void end_at_faults() {
  const std::lock_guard lock(clocks().mutex);
  clocks().end_at_faults = true;
}

const c10::impl::DeviceGuardImplInterface& device_guard() {
  static const Guard* const kept = new Guard;
  return *kept;
}

}  // namespace moraine::testing_support
