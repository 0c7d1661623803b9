#include "distributed/collectives/process_group.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/Event.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <numeric>

#include "distributed/control/control_store.h"

namespace moraine {

namespace {

// Sums smaller than this (bytes over all ranks) are gathered whole and added everywhere: one exchange instead of two.
constexpr int64_t kSmallSum = 64 << 10;

// The tensor's memory as a flat byte tensor. It shares storage and has no autograd history.
at::Tensor bytes_of(const at::Tensor& tensor) {
  MORAINE_ASSERT(tensor.is_contiguous(), "collectives take contiguous tensors");
  return tensor.detach().view({-1}).view(at::kByte);
}

int64_t byte_count(const at::Tensor& tensor) { return static_cast<int64_t>(tensor.nbytes()); }

// Sums the rows of `parts` in order into `output`; half types in fp32, rounded once.
void sum_rows(const at::Tensor& output, const at::Tensor& parts) {
  const bool narrow = output.scalar_type() == at::kHalf || output.scalar_type() == at::kBFloat16;
  at::Tensor sum = narrow ? parts[0].to(at::kFloat) : parts[0].clone();
  for (int64_t i = 1; i < parts.size(0); ++i) sum.add_(parts[i]);
  output.copy_(sum.view_as(output));
}

c10d::ReduceOp::RedOpType c10d_kind(ReduceKind kind) {
  switch (kind) {
    case ReduceKind::kSum:
      return c10d::ReduceOp::SUM;
    case ReduceKind::kMin:
      return c10d::ReduceOp::MIN;
    case ReduceKind::kMax:
      return c10d::ReduceOp::MAX;
  }
  MORAINE_ASSERT(false, "unknown reduction");
}

// Splits of dim 0 in rows -> counts in bytes, checked against the tensor.
std::vector<int64_t> byte_splits(const at::Tensor& tensor, std::vector<int64_t> splits, int64_t group_size) {
  const int64_t rows = tensor.dim() == 0 ? 1 : tensor.size(0);
  if (splits.empty()) {
    MORAINE_ASSERT(rows % group_size == 0, "equal parts of all_to_all_single need rows that the group divides");
    splits.assign(group_size, rows / group_size);
  }
  MORAINE_ASSERT(static_cast<int64_t>(splits.size()) == group_size, "all_to_all_single takes one split per rank");
  MORAINE_ASSERT(std::accumulate(splits.begin(), splits.end(), int64_t{0}) == rows &&
                     std::all_of(splits.begin(), splits.end(), [](int64_t n) { return n >= 0; }),
                 "splits of all_to_all_single must add up to the rows");
  int64_t row_bytes = static_cast<int64_t>(tensor.element_size());
  for (int64_t dim = 1; dim < tensor.dim(); ++dim) row_bytes *= tensor.size(dim);
  for (int64_t& n : splits) n *= row_bytes;
  return splits;
}

}  // namespace

// ------------------------------------------------------------------------------------------------ work

struct Work::State {
  std::vector<c10::intrusive_ptr<c10d::Work>> works;  // one, or the parts of one collective
  Control* control = nullptr;
  uint64_t id = 0;
  bool on_device = false;
};

namespace {

// Whether the current device's current stream has got here.
std::function<bool()> stream_gets_here() {
  auto event = std::make_shared<c10::Event>(c10::kCUDA);
  event->record(at::accelerator::getCurrentStream(at::accelerator::getDeviceIndex()));
  return [event] { return event->query(); };
}

}  // namespace

void Work::wait() {
  const std::shared_ptr<State> state = std::move(state_);
  state_ = nullptr;
  if (!state) return;
  try {
    for (const auto& work : state->works) work->wait();
  } catch (const std::exception& e) {
    state->control->collective_failed(state->id, exception_text(e));
  }
  // NCCL's wait() only queues; its works would keep their tensors for as long as the log looks after them.
  if (state->on_device) state->control->collectives().attach(state->id, stream_gets_here());
  state->control->collectives().finish(state->id);
}

// Enters the call into the log and starts it.
template <typename Start>
Work ProcessGroup::start(const char* op, int64_t bytes, Start&& start_backend) {
  if (!control_) return {};  // a planned group
  communicator_->connect();
  auto state = std::make_shared<Work::State>();
  state->control = control_;
  state->on_device = kind_ == BackendKind::kNccl;
  state->id = control_->collectives().start(op, name_, ranks_, bytes);
  try {
    if constexpr (std::is_same_v<decltype(start_backend()), std::vector<c10::intrusive_ptr<c10d::Work>>>) {
      state->works = start_backend();
    } else {
      state->works = {start_backend()};
    }
  } catch (const std::exception& e) {
    control_->collective_failed(state->id, exception_text(e));
  }
  control_->collectives().attach(state->id, [works = state->works] {
    return std::all_of(works.begin(), works.end(), [](const auto& work) { return work->isCompleted(); });
  });
  return Work(state);
}

// ------------------------------------------------------------------------------------------------ life

ProcessGroup::ProcessGroup(const std::string& name, int64_t rank) : name_(name), ranks_{rank} {}

ProcessGroup::ProcessGroup(Planned planned) : name_("planned"), ranks_(planned.size), rank_(planned.rank) {
  std::iota(ranks_.begin(), ranks_.end(), int64_t{0});
}

Communicator::Communicator(Control& control, BackendFactory& backends, BackendKind kind, const std::string& name,
                           const std::vector<int64_t>& ranks)
    : control_(control),
      backends_(backends),
      kind_(kind),
      name_(name),
      ranks_(ranks),
      uncaught_exceptions_(std::uncaught_exceptions()) {}

void Communicator::connect() {
  if (ranks_.size() == 1) return;
  std::call_once(connected_, [this] {
    const auto self = std::find(ranks_.begin(), ranks_.end(), control_.world().rank);
    MORAINE_ASSERT(self != ranks_.end(), "a process group is made by its members");
    // Groups of one name along one axis of the mesh have no rank in common: the first member tells them apart.
    const std::string key = fmt::format("{}.{}", name_, ranks_[0]);
    const uint64_t id = control_.collectives().start("connect", name_, ranks_, 0);
    try {
      backend_ = backends_.make(kind_, control_.rendezvous_store(key), static_cast<int>(self - ranks_.begin()),
                                static_cast<int>(ranks_.size()), key);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& e) {
      control_.collective_failed(id, exception_text(e));
    }
    control_.collectives().finish(id);
  });
}

Communicator::~Communicator() {
  if (!backend_) return;
  if (std::uncaught_exceptions() > uncaught_exceptions_) {
    backend_.release();
  } else if (kind_ == BackendKind::kNccl) {
    backend_->shutdown();  // its destructor would abort what is still in flight
  }
}

ProcessGroup::ProcessGroup(const std::string& name, std::shared_ptr<Communicator> communicator)
    : name_(name),
      ranks_(communicator->ranks()),
      control_(&communicator->control()),
      kind_(communicator->kind()),
      communicator_(std::move(communicator)) {
  const auto self = std::find(ranks_.begin(), ranks_.end(), control_->world().rank);
  MORAINE_ASSERT(self != ranks_.end(), "a process group is made by its members");
  rank_ = self - ranks_.begin();
}

ProcessGroup::ProcessGroup(Control& control, BackendFactory& backends, BackendKind kind, const std::string& name,
                           const std::vector<int64_t>& ranks)
    : ProcessGroup(name, std::make_shared<Communicator>(control, backends, kind, name, ranks)) {
  communicator_->connect();
}

// ------------------------------------------------------------------------------------------------ collectives

Work ProcessGroup::all_gather_into_tensor_async(const at::Tensor& output, const at::Tensor& input) {
  MORAINE_ASSERT(byte_count(output) == size() * byte_count(input),
                 "the output of all_gather_into_tensor is every input");
  at::Tensor to = bytes_of(output), from = bytes_of(input);
  if (size() == 1) {
    if (to.data_ptr() != from.data_ptr()) to.copy_(from);
    return {};
  }
  // Gloo gathers into a copy of its own; large parts are broadcast straight to where they belong instead.
  constexpr int64_t kLargePart = int64_t{1} << 20;
  if (kind_ == BackendKind::kGloo && byte_count(input) >= kLargePart) {
    return start("all_gather_into_tensor", byte_count(input), [&] {
      at::Tensor own = to.narrow(0, rank_ * from.numel(), from.numel());
      if (own.data_ptr() != from.data_ptr()) own.copy_(from);
      std::vector<c10::intrusive_ptr<c10d::Work>> works;
      for (int64_t rank = 0; rank < size(); ++rank) {
        std::vector<at::Tensor> part{to.narrow(0, rank * from.numel(), from.numel())};
        c10d::BroadcastOptions options;
        options.rootRank = rank;
        works.push_back(communicator_->backend()->broadcast(part, options));
      }
      return works;
    });
  }
  return start("all_gather_into_tensor", byte_count(input),
               [&] { return communicator_->backend()->_allgather_base(to, from); });
}

void ProcessGroup::all_gather_into_tensor(const at::Tensor& output, const at::Tensor& input) {
  all_gather_into_tensor_async(output, input).wait();
}

Work ProcessGroup::all_to_all_single_async(const at::Tensor& output, const at::Tensor& input,
                                           const std::vector<int64_t>& output_splits,
                                           const std::vector<int64_t>& input_splits) {
  MORAINE_ASSERT(output.scalar_type() == input.scalar_type(), "all_to_all_single keeps the dtype");
  std::vector<int64_t> output_bytes = byte_splits(output, output_splits, size());
  std::vector<int64_t> input_bytes = byte_splits(input, input_splits, size());
  at::Tensor to = bytes_of(output), from = bytes_of(input);
  if (size() == 1) {
    to.copy_(from);
    return {};
  }
  return start("all_to_all_single", byte_count(input),
               [&] { return communicator_->backend()->alltoall_base(to, from, output_bytes, input_bytes); });
}

void ProcessGroup::all_to_all_single(const at::Tensor& output, const at::Tensor& input,
                                     const std::vector<int64_t>& output_splits,
                                     const std::vector<int64_t>& input_splits) {
  all_to_all_single_async(output, input, output_splits, input_splits).wait();
}

void ProcessGroup::exchange_bytes(const char* op, const at::Tensor& output, const at::Tensor& input,
                                  std::vector<int64_t> output_bytes, std::vector<int64_t> input_bytes) {
  at::Tensor to = output, from = input;
  start(op, byte_count(input), [&] {
    return communicator_->backend()->alltoall_base(to, from, output_bytes, input_bytes);
  }).wait();
}

// output = this rank's part of the sum of all inputs, added in rank order.
void ProcessGroup::sum_of_parts(const at::Tensor& output, const at::Tensor& input) {
  const at::Tensor parts = at::empty({size(), output.numel()}, output.options());
  all_to_all_single(parts.view({-1}), input.detach().view({-1}));
  sum_rows(output.detach().view({-1}), parts);
}

void ProcessGroup::all_reduce_in_rank_order(const at::Tensor& tensor) {
  if (size() == 1 || tensor.numel() == 0) return;
  const at::Tensor flat = tensor.detach().view({-1});
  if (byte_count(tensor) * size() <= kSmallSum) {
    const at::Tensor parts = at::empty({size(), flat.numel()}, flat.options());
    all_gather_into_tensor(parts, flat);
    sum_rows(flat, parts);
    return;
  }
  const int64_t part = (flat.numel() + size() - 1) / size();
  at::Tensor padded = flat;
  if (part * size() != flat.numel()) {
    padded = at::zeros({part * size()}, flat.options());
    padded.narrow(0, 0, flat.numel()).copy_(flat);
  }
  const at::Tensor own = at::empty({part}, flat.options());
  sum_of_parts(own, padded);
  all_gather_into_tensor(padded, own);
  if (!padded.is_same(flat)) flat.copy_(padded.narrow(0, 0, flat.numel()));
}

void ProcessGroup::all_reduce(const at::Tensor& tensor, ReduceKind kind) {
  MORAINE_ASSERT(tensor.is_contiguous(), "collectives take contiguous tensors");
  if (size() == 1) return;
  if (kind_ == BackendKind::kGloo && kind == ReduceKind::kSum && tensor.is_floating_point()) {
    all_reduce_in_rank_order(tensor);
    return;
  }
  std::vector<at::Tensor> tensors{tensor.detach()};
  c10d::AllreduceOptions options;
  options.reduceOp = c10d_kind(kind);
  start("all_reduce", byte_count(tensor), [&] { return communicator_->backend()->allreduce(tensors, options); }).wait();
}

void ProcessGroup::reduce_scatter_tensor(const at::Tensor& output, const at::Tensor& input) {
  MORAINE_ASSERT(input.numel() == size() * output.numel() && input.scalar_type() == output.scalar_type() &&
                     input.is_contiguous() && output.is_contiguous(),
                 "reduce_scatter_tensor takes one output-sized part per rank");
  if (size() == 1) {
    output.detach().copy_(input.detach().view_as(output));
    return;
  }
  if (kind_ == BackendKind::kGloo) {
    sum_of_parts(output, input);
    return;
  }
  at::Tensor to = output.detach(), from = input.detach();
  start("reduce_scatter_tensor", byte_count(input), [&] {
    return communicator_->backend()->_reduce_scatter_base(to, from);
  }).wait();
}

Work ProcessGroup::broadcast_async(const at::Tensor& tensor, int64_t root) {
  MORAINE_ASSERT(root >= 0 && root < size(), "the root of a broadcast is in the group");
  if (size() == 1) return {};
  std::vector<at::Tensor> tensors{bytes_of(tensor)};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  return start("broadcast", byte_count(tensor), [&] { return communicator_->backend()->broadcast(tensors, options); });
}

void ProcessGroup::broadcast(const at::Tensor& tensor, int64_t root) { broadcast_async(tensor, root).wait(); }

// gather and scatter are all-to-alls in which only the root receives or sends: so their sizes may differ between ranks.
void ProcessGroup::gather(const std::vector<at::Tensor>& outputs, const at::Tensor& input, int64_t root) {
  MORAINE_ASSERT(static_cast<int64_t>(outputs.size()) == (rank_ == root ? size() : 0),
                 "gather takes one output per rank on its root and none elsewhere");
  if (size() == 1) {
    bytes_of(outputs[0]).copy_(bytes_of(input));
    return;
  }
  std::vector<int64_t> output_bytes(size(), 0), input_bytes(size(), 0);
  input_bytes[root] = byte_count(input);
  for (size_t i = 0; i < outputs.size(); ++i) output_bytes[i] = byte_count(outputs[i]);
  const at::Tensor from = bytes_of(input);
  const at::Tensor to =
      at::empty({std::accumulate(output_bytes.begin(), output_bytes.end(), int64_t{0})}, from.options());
  exchange_bytes("gather", to, from, output_bytes, input_bytes);
  int64_t offset = 0;
  for (size_t i = 0; i < outputs.size(); offset += output_bytes[i++]) {
    bytes_of(outputs[i]).copy_(to.narrow(0, offset, output_bytes[i]));
  }
}

void ProcessGroup::scatter(const at::Tensor& output, const std::vector<at::Tensor>& inputs, int64_t root) {
  MORAINE_ASSERT(static_cast<int64_t>(inputs.size()) == (rank_ == root ? size() : 0),
                 "scatter takes one input per rank on its root and none elsewhere");
  if (size() == 1) {
    bytes_of(output).copy_(bytes_of(inputs[0]));
    return;
  }
  std::vector<int64_t> output_bytes(size(), 0), input_bytes(size(), 0);
  output_bytes[root] = byte_count(output);
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < inputs.size(); ++i) {
    parts.push_back(bytes_of(inputs[i]));
    input_bytes[i] = byte_count(inputs[i]);
  }
  const at::Tensor to = bytes_of(output);
  exchange_bytes("scatter", to, parts.empty() ? at::empty({0}, to.options()) : at::cat(parts), output_bytes,
                 input_bytes);
}

Work ProcessGroup::send_async(const at::Tensor& tensor, int64_t destination) {
  MORAINE_ASSERT(destination >= 0 && destination < size() && destination != rank_, "send goes to another rank");
  std::vector<at::Tensor> tensors{bytes_of(tensor)};
  return start("send", byte_count(tensor),
               [&] { return communicator_->backend()->send(tensors, static_cast<int>(destination), 0); });
}

Work ProcessGroup::recv_async(const at::Tensor& tensor, int64_t source) {
  MORAINE_ASSERT(source >= 0 && source < size() && source != rank_, "recv comes from another rank");
  std::vector<at::Tensor> tensors{bytes_of(tensor)};
  return start("recv", byte_count(tensor),
               [&] { return communicator_->backend()->recv(tensors, static_cast<int>(source), 0); });
}

void ProcessGroup::send(const at::Tensor& tensor, int64_t destination) { send_async(tensor, destination).wait(); }
void ProcessGroup::recv(const at::Tensor& tensor, int64_t source) { recv_async(tensor, source).wait(); }

void ProcessGroup::barrier() {
  if (size() == 1) return;
  start("barrier", 0, [&] { return communicator_->backend()->barrier(); }).wait();
}

}  // namespace moraine
