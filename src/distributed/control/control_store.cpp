#include "distributed/control/control_store.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <system_error>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "base/json.h"
#include "base/log.h"
#include "base/output.h"

namespace moraine {

std::string ErrorReport::to_json() const {
  const Json json{{"rank", rank}, {"reporter", reporter}, {"exit_code", exit_code}, {"text", text}};
  // Texts may quote bytes of broken files.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

ErrorReport ErrorReport::from_json(const std::string& text) try {
  const Json json = Json::parse(text);
  ErrorReport report{.rank = json.at("rank").get<int64_t>(),
                     .reporter = json.at("reporter").get<int64_t>(),
                     .exit_code = json.at("exit_code").get<int>(),
                     .text = json.at("text").get<std::string>()};
  if (report.exit_code != 2) report.exit_code = 1;  // no error ends in success
  return report;
} catch (const Json::exception&) {
  return {.rank = -1,
          .reporter = -1,
          .exit_code = 1,
          .text = "start: the control store holds an error that no rank wrote: " + text.substr(0, 100)};
}

std::string control_prefix(const WorldInfo& world) { return "moraine/" + world.run_id; }

namespace {

// `host`: where this process reaches the socket.
c10::intrusive_ptr<c10d::Store> serve(ListeningSocket socket, const std::string& host) {
  c10d::TCPStoreOptions options;
  options.port = socket.port();
  options.isServer = true;
  options.waitWorkers = false;
  options.timeout = std::chrono::seconds(10);
  options.useLibUV = true;  // it drops who sends no store's first bytes, or sizes that no client of ours sends
  options.masterListenFd = socket.release();
  auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
  store->setTimeout(c10d::Store::kDefaultTimeout);
  return store;
}

// Waits until MASTER_ADDR has an address.
std::vector<std::string> addresses_of_master(const WorldInfo& world, StartWatch& watch) {
  watch.waits_for(fmt::format("an address of MASTER_ADDR {}", world.master_addr));
  for (;;) {
    HostAddresses found = resolve_host(world.master_addr);
    if (!found.numbers.empty()) return found.numbers;
    watch.waits_for(fmt::format("an address of MASTER_ADDR {}: {}", world.master_addr, found.why_none));
    if (StartWatch::Clock::now() > watch.deadline()) {
      throw run_error("MASTER_ADDR", fmt::format("{} has no address: {}", world.master_addr, found.why_none),
                      "set it to the host of rank 0");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
}

Error cannot_serve(const WorldInfo& world, const std::string& why) {
  return run_error("MASTER_PORT",
                   fmt::format("rank 0 cannot serve the control store at {}: {}",
                               with_port(world.master_addr, world.master_port), why),
                   "set MASTER_PORT to a free port, and MASTER_ADDR to the host of rank 0");
}

}  // namespace

ListeningSocket listen_for_store(const std::string& address, uint16_t port, const std::string& reached_at) {
  ListeningSocket socket(address, port);
  if (const auto error = connection_error(reached_at, socket.port(), std::chrono::seconds(5))) {
    throw run_error(
        "start", fmt::format("{} cannot reach its own address {}: {}", host_name(), reached_at, *error),
        is_loopback(reached_at) ? "is the loopback interface up? ip link set lo up" : "is its interface up?");
  }
  return socket;
}

c10::intrusive_ptr<c10d::Store> serve_local_store(ListeningSocket socket) {
  try {
    const auto store = serve(std::move(socket), "127.0.0.1");
    // A job with this MASTER_PORT by mistake is told so at once; the ranks do not look.
    store->set(kServedRunKey, fmt::format("--ranks of process {}", getpid()));
    return store;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw run_error("--ranks", "cannot serve the control store: " + exception_text(e));
  }
}

c10::intrusive_ptr<c10d::Store> serve_store(const WorldInfo& world, StartWatch& watch) {
  MORAINE_ASSERT(world.rank == 0 && !world.agent_store, "only rank 0 serves the store, and only without an agent's");
  std::vector<std::string> addresses = addresses_of_master(world, watch);
  const bool one_host = world.num_nodes <= 1 || world.master_addr == "localhost" || is_loopback(world.master_addr);
  try {
    if (!one_host) {
      const std::string first = addresses[0];
      addresses = addresses_for_other_hosts(std::move(addresses));
      if (addresses.size() != 1) return serve(listen_for_store("", world.master_port, first), first);
    }
    for (const std::string& address : addresses) {
      try {
        return serve(listen_for_store(address, world.master_port, address), address);
      } catch (const std::system_error& e) {
        if (e.code().value() != EADDRNOTAVAIL && e.code().value() != EAFNOSUPPORT) throw;
      }
    }
    log_warning(fmt::format(
        "MASTER_ADDR {} is no address of {}, the host of rank 0: the control store listens on all addresses",
        world.master_addr, host_name()));
    return serve(listen_for_store("", world.master_port, "127.0.0.1"), "127.0.0.1");
  } catch (const Error&) {
    throw;
  } catch (const std::system_error& e) {
    throw cannot_serve(world, e.code().message());
  } catch (const std::exception& e) {
    throw cannot_serve(world, exception_text(e));
  }
}

c10::intrusive_ptr<c10d::Store> connect_store(const WorldInfo& world, std::chrono::milliseconds timeout,
                                              StartWatch* watch) {
  using Clock = StartWatch::Clock;
  using std::chrono::milliseconds;
  const Clock::time_point deadline = Clock::now() + timeout;
  const auto left = [&] {
    return std::max(milliseconds(1), std::chrono::duration_cast<milliseconds>(deadline - Clock::now()));
  };
  const std::string where = with_port(world.master_addr, world.master_port);
  // Where several hosts wait for one, one rank of each says so.
  const bool speaks = world.local_rank == 0 || world.num_nodes <= 1;
  std::string why;
  if (watch) watch->waits_for(fmt::format("the control store of rank 0 at {}", where), speaks);
  for (milliseconds pause(10); Clock::now() < deadline; pause = std::min(2 * pause, milliseconds(500))) {
    const HostAddresses found = resolve_host(world.master_addr);
    why = fmt::format("{} has no address: {}", world.master_addr, found.why_none);
    for (const std::string& address : found.numbers) {
      if (const auto error = connection_error(address, world.master_port, std::min(left(), milliseconds(5000)))) {
        why = address == world.master_addr ? *error : fmt::format("{} ({})", *error, address);
        continue;
      }
      if (watch)
        watch->waits_for(fmt::format("an answer of what listens at {}: is it rank 0 of this run?", where), speaks);
      c10d::TCPStoreOptions options;
      options.port = world.master_port;
      options.waitWorkers = false;
      options.timeout = left();
      try {
        auto store = c10::make_intrusive<c10d::TCPStore>(address, options);
        store->setTimeout(c10d::Store::kDefaultTimeout);
        return store;
      } catch (const std::exception& e) {
        why = exception_text(e);
      }
    }
    if (watch) watch->waits_for(fmt::format("the control store of rank 0 at {}: {}", where, why), speaks);
    std::this_thread::sleep_for(std::min(left(), pause));
  }
  throw run_error("MASTER_ADDR",
                  fmt::format("rank {} ({}) cannot reach the control store at {} within {:.3g} s: {}", world.rank,
                              host_name(), where, std::chrono::duration<double>(timeout).count(), why),
                  "is rank 0 running there, and the port open between the hosts?");
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
