#include "dist/control_store.h"

#include <arpa/inet.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "base/json.h"
#include "base/output.h"

namespace moraine {

std::string ErrorReport::to_json() const {
  const Json json{{"rank", rank}, {"reporter", reporter}, {"exit_code", exit_code}, {"text", text}};
  // Texts may quote bytes of broken files.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

ErrorReport ErrorReport::from_json(const std::string& text) {
  const Json json = Json::parse(text);
  return {.rank = json.at("rank").get<int64_t>(),
          .reporter = json.at("reporter").get<int64_t>(),
          .exit_code = json.at("exit_code").get<int>(),
          .text = json.at("text").get<std::string>()};
}

std::string control_prefix(const WorldInfo& world) { return "moraine/" + world.run_id; }

LocalStoreSocket::LocalStoreSocket() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (fd_ < 0 || bind(fd_, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(fd_, 1024) != 0 ||
      getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    const std::string why = std::strerror(errno);
    if (fd_ >= 0) close(fd_);
    throw run_error("--ranks", "cannot listen on 127.0.0.1: " + why);
  }
  port_ = ntohs(address.sin_port);
}

LocalStoreSocket::~LocalStoreSocket() {
  if (fd_ >= 0) close(fd_);
}

c10::intrusive_ptr<c10d::Store> serve_local_store(LocalStoreSocket socket) {
  c10d::TCPStoreOptions options;
  options.port = socket.port();
  options.isServer = true;
  options.waitWorkers = false;
  options.masterListenFd = socket.release();
  try {
    return c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
  } catch (const std::exception& e) {
    throw run_error("--ranks", "cannot serve the control store: " + exception_text(e));
  }
}

c10::intrusive_ptr<c10d::Store> serve_store(const WorldInfo& world) {
  MORAINE_ASSERT(world.rank == 0 && !world.agent_store, "only rank 0 serves the store, and only without an agent's");
  c10d::TCPStoreOptions options;
  options.port = world.master_port;
  options.isServer = true;
  options.waitWorkers = false;
  try {
    return c10::make_intrusive<c10d::TCPStore>(world.master_addr, options);
  } catch (const std::exception& e) {
    throw run_error("MASTER_PORT",
                    fmt::format("rank 0 cannot serve the control store at {}:{}: {}", world.master_addr,
                                world.master_port, exception_text(e)),
                    "set MASTER_PORT to a free port, and MASTER_ADDR to the host of rank 0");
  }
}

c10::intrusive_ptr<c10d::Store> connect_store(const WorldInfo& world, std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = world.master_port;
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    return c10::make_intrusive<c10d::TCPStore>(world.master_addr, options);
  } catch (const std::exception& e) {
    throw run_error("MASTER_ADDR",
                    fmt::format("rank {} ({}) cannot reach the control store at {}:{}: {}", world.rank, host_name(),
                                world.master_addr, world.master_port, exception_text(e)),
                    "is rank 0 running there, and the port open between the hosts?");
  }
}

c10::intrusive_ptr<c10d::Store> with_prefix(const std::string& prefix, c10::intrusive_ptr<c10d::Store> store) {
  return c10::make_intrusive<c10d::PrefixStore>(prefix, std::move(store));
}

std::optional<std::string> try_get(c10d::Store& store, const std::string& key) {
  if (!store.check({key})) return std::nullopt;
  return store.get_to_str(key);
}

bool publish_error(c10d::Store& store, const ErrorReport& report) {
  const std::string json = report.to_json();
  return store.compareSet(kErrorKey, std::string(), json) == json;
}

void print_error(const std::string& text) {
  constexpr size_t kLongest = 16000;
  const std::string line = "moraine: error: " + for_terminal(std::string_view(text).substr(0, kLongest)) + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}

std::string exception_text(const std::exception& e) {
  std::string text;
  if (const auto* error = dynamic_cast<const c10::Error*>(&e)) {
    text = error->what_without_backtrace();
  } else {
    text = e.what();
  }
  // Some of c10d's exceptions carry their trace inside the message.
  text = text.substr(0, text.find("\nException raised from"));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return text.substr(0, 400);
}

}  // namespace moraine
