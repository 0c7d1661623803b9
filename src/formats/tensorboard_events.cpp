#include "formats/tensorboard_events.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "formats/tensorboard_event.pb.h"

namespace moraine {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);  // the polynomial, bits reversed
    table[byte] = crc;
  }
  return table;
}

uint32_t masked_crc(const std::string& bytes) {
  const uint32_t crc = crc32c(bytes);
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

template <typename Number>
std::string little_endian(Number number) {
  std::string bytes;
  for (size_t i = 0; i < sizeof(Number); ++i) bytes += static_cast<char>(number >> 8 * i & 0xff);
  return bytes;
}

tensorboard::Event event_now() {
  tensorboard::Event event;
  event.set_wall_time(std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  return event;
}

std::string host_name() {
  char name[256] = "localhost";
  gethostname(name, sizeof(name) - 1);
  return name;
}

}  // namespace

uint32_t crc32c(const std::string& bytes) {
  static constexpr std::array<uint32_t, 256> kTable = make_crc_table();
  uint32_t crc = 0xffffffff;
  for (const char byte : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint8_t>(byte)) & 0xff];
  return ~crc;
}

std::string tfrecord(const std::string& bytes) {
  const std::string length = little_endian(static_cast<uint64_t>(bytes.size()));
  return length + little_endian(masked_crc(length)) + bytes + little_endian(masked_crc(bytes));
}

TensorboardEvents::TensorboardEvents(const std::filesystem::path& folder, int64_t first_step) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw run_error(folder.string(), error.message(), "check save.dir");
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  // TensorBoard reads a folder's files in the order of their names.
  path_ =
      folder / fmt::format("events.out.tfevents.{:020}.{}.{}",
                           std::chrono::duration_cast<std::chrono::microseconds>(now).count(), host_name(), getpid());
  file_ = std::fopen(path_.c_str(), "ax");
  if (!file_) throw run_error(path_.string(), std::strerror(errno), "check save.dir");
  tensorboard::Event version = event_now();
  version.set_file_version("brain.Event:2");
  write(version.SerializeAsString());
  tensorboard::Event start = event_now();
  start.set_step(first_step);
  start.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  write(start.SerializeAsString());
}

TensorboardEvents::~TensorboardEvents() {
  if (file_) std::fclose(file_);
}

void TensorboardEvents::add_scalars(int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  tensorboard::Event event = event_now();
  event.set_step(step);
  for (const auto& [tag, value] : scalars) {
    tensorboard::Summary::Value* entry = event.mutable_summary()->add_value();
    entry->set_tag(tag);
    entry->set_simple_value(static_cast<float>(value));
  }
  write(event.SerializeAsString());
}

void TensorboardEvents::write(const std::string& event) {
  const std::string record = tfrecord(event);
  if (const int code = append_whole(fileno(file_), record))
    throw run_error(path_.string(), std::string("cannot write: ") + std::strerror(code),
                    "free space or change save.dir");
}

}  // namespace moraine
