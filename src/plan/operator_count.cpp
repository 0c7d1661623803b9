#include "plan/operator_count.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

namespace moraine {
namespace {

// A call that has not ended.
struct Started final : at::ObserverContext {
  Started* outer = nullptr;
  bool has_kernels_within = false;
  bool writes_argument = false;
  std::vector<const c10::StorageImpl*> arguments;
  Operation operation;
};

struct Counting {
  DeviceWork* work = nullptr;  // null: nobody counts
  Started* innermost = nullptr;
};
thread_local Counting counting;

double stored_bytes(const at::Tensor& x) {
  double elements = 1;
  for (int64_t d = 0; d < x.dim(); ++d)
    if (x.stride(d) != 0 || x.size(d) == 0) elements *= static_cast<double>(x.size(d));
  return elements * static_cast<double>(x.element_size());
}

const c10::StorageImpl* storage_of(const at::Tensor& x) { return x.storage().unsafeGetStorageImpl(); }

template <typename Visit>
void for_each_meta_tensor(const c10::IValue& value, const Visit& visit) {
  const auto one = [&](const at::Tensor& x) {
    if (x.defined() && x.is_meta() && x.has_storage()) visit(x);
  };
  if (value.isTensor()) {
    one(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& x : value.toTensorList()) one(x);
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor>& x : value.toOptionalTensorList())
      if (x) one(*x);
  }
}

bool is_one_of(const std::set<std::string_view>& names, std::string_view name) { return names.contains(name); }

// Memory without values, and what changes a tensor's description alone.
bool has_no_kernel(std::string_view name) {
  static const std::set<std::string_view> kNames{"resize_",        "set_",      "detach_",          "squeeze_",
                                                 "unsqueeze_",     "t_",        "resize_as_",       "transpose_",
                                                 "requires_grad_", "new_empty", "new_empty_strided"};
  return name.starts_with("empty") || is_one_of(kNames, name);
}
// Their first argument is written and not read.
bool overwrites(std::string_view name) {
  return is_one_of({"copy_", "fill_", "zero_", "uniform_", "normal_", "bernoulli_"}, name);
}
// Of their first argument as much is read as they return, or is written as they are given.
bool reads_some_rows(std::string_view name) {
  return is_one_of({"index_select", "index", "gather", "embedding"}, name);
}
bool writes_some_rows(std::string_view name) {
  return is_one_of({"index_copy_", "index_add_", "_index_put_impl_", "index_put_", "scatter_", "scatter_add_"}, name);
}

Operation product_of(std::string_view name, c10::ArrayRef<const c10::IValue> inputs) {
  const auto tensor = [&](size_t i) -> const at::Tensor& { return inputs[i].toTensor(); };
  const auto of_matrices = [&](size_t first, Product half) {
    const at::Tensor& a = tensor(first);
    const double flops = 2.0 * static_cast<double>(a.numel()) * static_cast<double>(tensor(first + 1).size(-1));
    return Operation{a.scalar_type() == at::kBFloat16 ? half : Product::kFloat, flops};
  };
  // Scores and sums over values of T queries and S keys; backwards five products instead of two.
  const auto of_attention = [&](size_t first, bool causal, double factor) {
    const at::Tensor &q_BNTD = tensor(first), &k_BNSD = tensor(first + 1);
    const double whole = 4.0 * static_cast<double>(q_BNTD.numel()) * static_cast<double>(k_BNSD.size(2));
    return Operation{Product::kAttention, whole * factor * (causal ? 0.5 : 1)};
  };
  if (name == "mm" || name == "bmm") return of_matrices(0, Product::kHalf);
  if (name == "addmm" || name == "addmm_" || name == "baddbmm" || name == "baddbmm_")
    return of_matrices(1, Product::kHalf);
  if (name == "_grouped_mm") return of_matrices(0, Product::kGrouped);
  if (name == "linalg_solve_triangular")
    return {Product::kFloat, static_cast<double>(tensor(0).size(-1)) * static_cast<double>(tensor(1).numel())};
  if (name == "_scaled_dot_product_flash_attention_for_cpu") return of_attention(0, inputs[4].toBool(), 1);
  if (name == "_scaled_dot_product_flash_attention_for_cpu_backward") return of_attention(1, inputs[7].toBool(), 2.5);
  return {};
}

std::string_view plain_name(const at::RecordFunction& call) {
  const std::string_view name = call.name();
  return name.starts_with("aten::") ? name.substr(6) : name;
}

}  // namespace

DeviceWork& DeviceWork::operator+=(const DeviceWork& more) {
  for (const auto& [operation, times] : more.operations) add(operation, times);
  return *this;
}

double DeviceWork::launches() const {
  double sum = 0;
  for (const auto& [operation, times] : operations) sum += times;
  return sum;
}

double DeviceWork::flops() const {
  double sum = 0;
  for (const auto& [operation, times] : operations) sum += operation.flops * times;
  return sum;
}

double DeviceWork::bytes() const {
  double sum = 0;
  for (const auto& [operation, times] : operations) sum += operation.bytes * times;
  return sum;
}

OperatorCount::OperatorCount() {
  counting = {&work_, nullptr};
  handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&on_start, &on_end)
                                           .needsInputs(true)
                                           .needsOutputs(true)
                                           .scopes({at::RecordScope::FUNCTION}));
}

OperatorCount::~OperatorCount() {
  at::removeCallback(handle_);
  counting = {};
}

DeviceWork OperatorCount::take() { return std::exchange(work_, {}); }

std::unique_ptr<at::ObserverContext> OperatorCount::on_start(const at::RecordFunction& call) {
  if (!counting.work) return nullptr;
  auto started = std::make_unique<Started>();
  started->outer = std::exchange(counting.innermost, started.get());
  const std::string_view name = plain_name(call);
  const c10::ArrayRef<const c10::IValue> inputs = call.inputs();
  const bool in_place = name.ends_with('_') || (name.starts_with("__i") && name.ends_with("__"));
  const std::string_view overload = call.overload_name() ? call.overload_name() : "";
  const bool has_out = overload == "out" || overload.ends_with("_out");
  started->writes_argument = in_place || has_out;
  started->operation = product_of(name, inputs);
  double first_bytes = 0, other_bytes = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    for_each_meta_tensor(inputs[i], [&](const at::Tensor& x) {
      started->arguments.push_back(storage_of(x));
      const bool is_out = has_out && i + 1 == inputs.size();
      if (i == 0)
        first_bytes = overwrites(name) || is_out ? 0 : stored_bytes(x);
      else if (!is_out)
        other_bytes += stored_bytes(x);
    });
  }
  if (reads_some_rows(name)) first_bytes = 0;                                    // known when it ends
  if (writes_some_rows(name)) first_bytes = std::min(first_bytes, other_bytes);  // and as much is written
  started->operation.bytes = first_bytes + other_bytes;
  return started;
}

void OperatorCount::on_end(const at::RecordFunction& call, at::ObserverContext* context) {
  auto* started = static_cast<Started*>(context);
  if (!started) return;
  counting.innermost = started->outer;
  if (!counting.work) return;
  const std::string_view name = plain_name(call);
  bool has_kernel = started->has_kernels_within;
  if (!has_kernel && !has_no_kernel(name)) {
    double written = 0;
    for (const c10::IValue& value : call.outputs()) {
      for_each_meta_tensor(value, [&](const at::Tensor& x) {
        const bool is_argument = std::count(started->arguments.begin(), started->arguments.end(), storage_of(x)) > 0;
        if (is_argument && !started->writes_argument) return;  // a view
        has_kernel = true;
        written += stored_bytes(x);
      });
    }
    if (has_kernel) {
      Operation operation = started->operation;
      if (reads_some_rows(name)) operation.bytes += written;
      operation.bytes += writes_some_rows(name) ? std::min(written, operation.bytes) : written;
      counting.work->add(operation);
    }
  }
  if (has_kernel && started->outer) started->outer->has_kernels_within = true;
}

}  // namespace moraine
