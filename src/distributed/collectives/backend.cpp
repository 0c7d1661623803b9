#include "distributed/collectives/backend.h"

#include <fmt/format.h>

#include <cstdlib>
#include <set>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include "base/error.h"
#include "distributed/collectives/backend_hook.h"
#include "distributed/control/control_store.h"
#include "distributed/control/listening_sockets.h"
#include "distributed/control/network_address.h"

namespace moraine {

BackendKind choose_backend(BackendChoice choice, c10::Device device) {
#ifdef USE_C10D_NCCL
  constexpr bool has_nccl = true;
#else
  constexpr bool has_nccl = false;
#endif
  if (choice == BackendChoice::kGloo) return BackendKind::kGloo;
  if (choice == BackendChoice::kNccl) {
    if (!has_nccl)
      throw input_error("dist.backend", "nccl is not in this build", "build against a CUDA torch, or use gloo");
    if (!device.is_cuda()) throw input_error("dist.backend", "nccl needs CUDA devices", "use gloo or auto");
    return BackendKind::kNccl;
  }
  return device.is_cuda() && has_nccl ? BackendKind::kNccl : BackendKind::kGloo;
}

struct BackendFactory::GlooDevice {
  std::shared_ptr<::gloo::transport::Device> device;
  std::set<int> listening;  // its sockets that wait for connections
  bool complete = false;
};

namespace {

BackendHook& backend_hook() {
  static BackendHook hook;
  return hook;
}

std::shared_ptr<::gloo::transport::Device> make_gloo_device(const WorldInfo& world) {
  if (const char* names = std::getenv("GLOO_SOCKET_IFNAME"); names && *names) {
    // A list, as torch takes it; one device carries everything here.
    const std::string name = std::string(names).substr(0, std::string(names).find(','));
    try {
      return c10d::ProcessGroupGloo::createDeviceForInterface(name, /*lazyInit=*/false);
    } catch (const std::exception& e) {
      throw input_error("GLOO_SOCKET_IFNAME", fmt::format("cannot use interface '{}': {}", name, exception_text(e)));
    }
  }
  const std::string address = own_address(world);
  try {
    return c10d::ProcessGroupGloo::createDeviceForHostname(address, /*lazyInit=*/false);
  } catch (const std::exception& e) {
    throw run_error("start", fmt::format("cannot use this host's address {}: {}", address, exception_text(e)),
                    "set GLOO_SOCKET_IFNAME to the interface that reaches the other hosts");
  }
}

}  // namespace

BackendFactory::BackendFactory(const WorldInfo& world, BackendKind kind, std::chrono::milliseconds timeout,
                               c10::Device device)
    : kind_(kind), timeout_(timeout), device_(device) {
  if (world.distributed()) {
    gloo_ = std::make_unique<GlooDevice>();
    const std::set<int> before = listening_sockets();
    gloo_->device = make_gloo_device(world);
    for (int socket : listening_sockets()) {
      if (!before.contains(socket)) gloo_->listening.insert(socket);
    }
  }
}

BackendFactory::~BackendFactory() = default;

void set_backend_hook(BackendHook hook) { backend_hook() = std::move(hook); }

void BackendFactory::stop_listening() {
  if (!gloo_ || gloo_->complete) return;
  gloo_->complete = true;
  for (int socket : gloo_->listening) moraine::stop_listening(socket);
}

c10::intrusive_ptr<c10d::Backend> BackendFactory::make(BackendKind kind, c10::intrusive_ptr<c10d::Store> store,
                                                       int rank, int size, const std::string& name) {
  // The control plane's own limit comes first and tells more; this one is for when that fails.
  const std::chrono::milliseconds timeout = timeout_ + std::chrono::seconds(30);
  if (kind == BackendKind::kNccl) {
#ifdef USE_C10D_NCCL
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    options->group_name = name;
    options->config.blocking = 1;
    auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
    backend->setBoundDeviceId(device_);
    backend->eagerConnectSingleDevice(device_);
    return backend;
#endif
  }
  MORAINE_ASSERT(!gloo_->complete, "groups are made before stop_listening()");
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  options->devices.push_back(gloo_->device);
  options->threads = 2;
  options->group_name = name;
  auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
  if (backend_hook()) return backend_hook()(std::move(backend));
  return backend;
}

}  // namespace moraine
