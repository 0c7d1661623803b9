// Collectives over a group of ranks, named as in c10d. Thin: what is added is a group of one without any backend, data
// movement for every dtype (bytes travel), sums in a fixed order, and a record of every call for reports about hangs.
//
// Contract of every call: all ranks of the group must make it, in the same order, with matching shapes. Tensors are
// contiguous and in memory of the backend: Gloo's is the host, NCCL's a CUDA device. `root`, `source` and `destination`
// are ranks within the group. The calls record nothing for autograd. Failures throw run errors that name the collective
// and, if one died, the rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "distributed/collectives/backend.h"
#include "distributed/control/control.h"

namespace moraine {

// A collective in flight. The tensors given to the call must stay untouched (outputs: unread) until wait() returns; on
// CUDA, wait() makes the current stream wait and returns at once.
class Work {
 public:
  Work() = default;  // nothing in flight
  void wait();

 private:
  friend class ProcessGroup;
  struct State;
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

enum class ReduceKind { kSum, kMin, kMax };

// What a group's ranks talk over: one backend, connected by connect() or at the first collective. Groups of the same
// ranks may share one. Their collectives are then one queue, so all ranks must make them in the same order.
class Communicator {
 public:
  // `ranks`: world ranks, this one among them. `backends` outlives this. Connects nothing.
  Communicator(Control& control, BackendFactory& backends, BackendKind kind, const std::string& name,
               const std::vector<int64_t>& ranks);
  // Waits for collectives in flight, except while an exception unwinds: then they are abandoned, because their peers
  // may never come.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  // All of the ranks must come here, directly or by a collective; nothing where they are connected, or of one rank.
  void connect();
  c10d::Backend* backend() const { return backend_.get(); }  // none before connect(), and of one rank
  Control& control() const { return control_; }
  BackendKind kind() const { return kind_; }
  const std::vector<int64_t>& ranks() const { return ranks_; }

 private:
  Control& control_;
  BackendFactory& backends_;
  BackendKind kind_;
  std::string name_;
  std::vector<int64_t> ranks_;
  std::once_flag connected_;
  c10::intrusive_ptr<c10d::Backend> backend_;
  int uncaught_exceptions_;
};

class ProcessGroup {
 public:
  // A group of this rank alone: every call is a local copy.
  explicit ProcessGroup(const std::string& name = "self", int64_t rank = 0);
  // Rank `rank` of `size` that are only planned: calls with meta tensors allocate what they do elsewhere and move
  // nothing.
  struct Planned {
    int64_t rank, size;
  };
  explicit ProcessGroup(Planned planned);
  ProcessGroup(const std::string& name, std::shared_ptr<Communicator> communicator);
  // With a communicator of its own, connected. All of `ranks` (world ranks, this one among them) must call this, with
  // the same name and in the same order of groups.
  ProcessGroup(Control& control, BackendFactory& backends, BackendKind kind, const std::string& name,
               const std::vector<int64_t>& ranks);
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  const std::string& name() const { return name_; }
  int64_t rank() const { return rank_; }  // within the group
  int64_t size() const { return static_cast<int64_t>(ranks_.size()); }
  const std::vector<int64_t>& ranks() const { return ranks_; }  // the members' world ranks

  // output (size · numel elements) = every rank's input, one after another. `input` may be this rank's part of
  // `output`.
  void all_gather_into_tensor(const at::Tensor& output, const at::Tensor& input);
  Work all_gather_into_tensor_async(const at::Tensor& output, const at::Tensor& input);

  // Rows (dim 0) of `input` go out in order, input_splits[i] of them to rank i; `output` takes output_splits[i] rows
  // from rank i, in rank order. Empty splits = equal parts. Zero rows are fine anywhere.
  void all_to_all_single(const at::Tensor& output, const at::Tensor& input,
                         const std::vector<int64_t>& output_splits = {}, const std::vector<int64_t>& input_splits = {});
  Work all_to_all_single_async(const at::Tensor& output, const at::Tensor& input,
                               const std::vector<int64_t>& output_splits = {},
                               const std::vector<int64_t>& input_splits = {});

  // Leaves the sum (min, max) in `tensor` on every rank, with the same bits on all. On the CPU sums of floating-point
  // tensors are taken in rank order, 16-bit dtypes in fp32 and rounded once: equal inputs give equal bits, however a
  // tensor is cut into buckets. On CUDA this is NCCL's sum.
  void all_reduce(const at::Tensor& tensor, ReduceKind kind = ReduceKind::kSum);
  // The sum in rank order on every device.
  void all_reduce_in_rank_order(const at::Tensor& tensor);

  // output = this rank's part (of `size` equal ones) of the sum of all inputs; summed as all_reduce does.
  void reduce_scatter_tensor(const at::Tensor& output, const at::Tensor& input);

  void broadcast(const at::Tensor& tensor, int64_t root);
  Work broadcast_async(const at::Tensor& tensor, int64_t root);

  // outputs[i] on `root` = rank i's input; elsewhere `outputs` is empty. Sizes may differ from rank to rank.
  void gather(const std::vector<at::Tensor>& outputs, const at::Tensor& input, int64_t root);
  // output = inputs[rank] of `root`; elsewhere `inputs` is empty. Sizes may differ from rank to rank.
  void scatter(const at::Tensor& output, const std::vector<at::Tensor>& inputs, int64_t root);

  // Not within a group of one.
  void send(const at::Tensor& tensor, int64_t destination);
  Work send_async(const at::Tensor& tensor, int64_t destination);
  void recv(const at::Tensor& tensor, int64_t source);
  Work recv_async(const at::Tensor& tensor, int64_t source);

  void barrier();

 private:
  template <typename Start>
  Work start(const char* op, int64_t bytes, Start&& start_backend);
  void exchange_bytes(const char* op, const at::Tensor& output, const at::Tensor& input,
                      std::vector<int64_t> output_bytes, std::vector<int64_t> input_bytes);
  void sum_of_parts(const at::Tensor& output, const at::Tensor& input);

  std::string name_;
  std::vector<int64_t> ranks_;
  int64_t rank_ = 0;
  Control* control_ = nullptr;
  BackendKind kind_ = BackendKind::kGloo;
  std::shared_ptr<Communicator> communicator_;  // none of self and of planned groups
};

}  // namespace moraine
