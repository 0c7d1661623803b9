#include "nn/row_products.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <functional>

#include "base/cpu_features.h"
#include "base/error.h"
#include "kernels/matmul.h"
#include "tensor/execution_device.h"
#include "tensor/kernel_matrix.h"

namespace moraine {
namespace {

// Rows that share a pass over the weights, and floats that are packed at a time.
constexpr int64_t kRowsAtOnce = 20 * kernels::kRowTile, kPackedAtOnce = int64_t{16} << 20;

// Rows of one group that are multiplied together.
struct Part {
  const RowGroup* group;
  int64_t first_row, num_rows;
  int64_t packed, packed_low;  // where in the buffer
};

// Calls body(i) for every i, spread over the threads so that each has about the same cost.
void spread_by_cost(const std::vector<int64_t>& costs, const std::function<void(size_t)>& body) {
  int64_t total = 0;
  for (int64_t cost : costs) total += cost;
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t end) {
    int64_t done = 0;
    for (size_t i = 0; i < costs.size(); done += costs[i++]) {
      const int64_t owner = (2 * done + costs[i]) * threads / std::max<int64_t>(1, 2 * total);
      if (owner >= first && owner < end) body(i);
    }
  });
}

class RowProducts {
 public:
  RowProducts(const at::Tensor& out_RN, const at::Tensor& x_RK, ProductPass pass, double scaling,
              const at::Tensor& low_RL)
      : out_(out_RN),
        x_(x_RK),
        low_(low_RL),
        x_matrix_(kernel_matrix(x_RK)),
        scaling_(static_cast<float>(scaling)),
        rows_are_columns_(pass == ProductPass::kForward) {}

  void run(const std::vector<Part>& parts, float* buffer) const {
    std::vector<int64_t> costs;
    for (const Part& part : parts) costs.push_back(part.num_rows);
    spread_by_cost(costs, [&](size_t i) { prepare(parts[i], buffer); });

    const int64_t tiles = kernels::column_tiles(out_.size(1));
    const int64_t tasks_wanted = 8 * at::get_num_threads();
    const int64_t tiles_at_once = std::max<int64_t>(1, tiles * static_cast<int64_t>(parts.size()) / tasks_wanted);
    std::vector<Task> tasks;
    costs.clear();
    for (const Part& part : parts) {
      for (int64_t tile = 0; tile < tiles; tile += tiles_at_once) {
        tasks.push_back({&part, tile, std::min(tiles, tile + tiles_at_once)});
        costs.push_back((kernels::row_tiles(part.num_rows) + 1) * (tasks.back().end_tile - tile));
      }
    }
    spread_by_cost(costs, [&](size_t i) { multiply(tasks[i], buffer); });
  }

 private:
  struct Task {
    const Part* part;
    int64_t first_tile, end_tile;
  };

  void prepare(const Part& part, float* buffer) const {
    float* packed = buffer + part.packed;
    kernels::pack_rows(x_matrix_.from(part.first_row, 0), part.num_rows, x_.size(1), 1.0F, packed);
    if (!part.group->down.defined()) return;
    const kernels::Term term{packed, x_.size(1), kernel_matrix(part.group->down), rows_are_columns_};
    const kernels::MutableMatrix low = mutable_kernel_matrix(low_).from(part.first_row);
    const int64_t rank = low_.size(1);
    kernels::multiply({&term, 1}, part.num_rows, rank, 0, kernels::column_tiles(rank), low);
    kernels::pack_rows({low.data, low.number, low.row_stride}, part.num_rows, rank, scaling_, buffer + part.packed_low);
  }

  void multiply(const Task& task, float* buffer) const {
    const Part& part = *task.part;
    const RowGroup& group = *part.group;
    std::array<kernels::Term, 2> terms;
    size_t count = 0;
    const bool lies_transposed = group.weight.stride(1) != 1 && group.weight.stride(0) == 1;
    terms[count++] = {buffer + part.packed, x_.size(1),
                      kernel_matrix(lies_transposed ? group.weight.t() : group.weight),
                      rows_are_columns_ != lies_transposed};
    if (group.up.defined())
      terms[count++] = {buffer + part.packed_low, low_.size(1), kernel_matrix(group.up), rows_are_columns_,
                        /*adds_to_rounded=*/true};
    kernels::multiply({terms.data(), count}, part.num_rows, out_.size(1), task.first_tile, task.end_tile,
                      mutable_kernel_matrix(out_).from(part.first_row));
  }

  const at::Tensor &out_, &x_, &low_;
  const kernels::Matrix x_matrix_;
  const float scaling_;
  const bool rows_are_columns_;
};

}  // namespace

bool own_kernels_multiply(at::Device device, at::ScalarType dtype) {
  if (!execution_device(device).is_cpu()) return false;
  const bool bf16 = instruction_set() == InstructionSet::kAvx512 && !has_bf16_products();
  return dtype == at::kFloat || (dtype == at::kBFloat16 && bf16);
}

void row_products(const at::Tensor& out_RN, const at::Tensor& x_RK, const std::vector<RowGroup>& groups,
                  ProductPass pass, double scaling, const at::Tensor& low_RL) {
  const int64_t summands = x_RK.size(1), rank = low_RL.defined() ? low_RL.size(1) : 0;
  std::vector<std::vector<Part>> waves;
  int64_t filled = 0, largest = 0;
  for (const RowGroup& group : groups) {
    for (int64_t row = 0; row < group.num_rows; row += kRowsAtOnce) {
      const int64_t rows = std::min(kRowsAtOnce, group.num_rows - row);
      const int64_t size = kernels::packed_size(rows, summands), all = size + kernels::packed_size(rows, rank);
      if (waves.empty() || filled + all > kPackedAtOnce) waves.emplace_back(), filled = 0;
      waves.back().push_back({&group, group.first_row + row, rows, filled, filled + size});
      largest = std::max(largest, filled += all);
    }
  }
  if (waves.empty()) return;
  at::Tensor buffer = at::empty({largest}, x_RK.options().dtype(at::kFloat));
  if (x_RK.is_meta()) return;
  MORAINE_ASSERT(x_RK.is_contiguous() && out_RN.is_contiguous() && (!low_RL.defined() || low_RL.is_contiguous()),
                 "activations lie row by row");
  const RowProducts products(out_RN, x_RK, pass, scaling, low_RL);
  for (const std::vector<Part>& wave : waves) products.run(wave, buffer.mutable_data_ptr<float>());
}

}  // namespace moraine
