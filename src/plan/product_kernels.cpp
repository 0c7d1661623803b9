#include "plan/product_kernels.h"

#include <ATen/ATen.h>

#include <string_view>

namespace moraine {
namespace {

thread_local std::set<std::vector<int64_t>>* taken_down = nullptr;

void append(std::vector<int64_t>& key, at::IntArrayRef values) { key.insert(key.end(), values.begin(), values.end()); }

}  // namespace

ProductShapes::ProductShapes() {
  taken_down = &shapes_;
  handle_ = at::addThreadLocalCallback(
      at::RecordFunctionCallback(&on_call).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
}

ProductShapes::~ProductShapes() {
  at::removeCallback(handle_);
  taken_down = nullptr;
}

std::unique_ptr<at::ObserverContext> ProductShapes::on_call(const at::RecordFunction& call) {
  const std::string_view name = call.name();
  const bool adds = name == "aten::addmm" || name == "aten::addmm_";
  if (!taken_down || !(adds || name == "aten::mm" || name == "aten::bmm")) return nullptr;
  const size_t first = adds ? 1 : 0;
  const at::Tensor &a = call.inputs()[first].toTensor(), &b = call.inputs()[first + 1].toTensor();
  if (a.scalar_type() != at::kBFloat16) return nullptr;
  std::vector<int64_t> key{a.size(-2), adds, name == "aten::bmm"};
  for (const at::Tensor& x : {a, b}) {
    append(key, x.sizes());
    append(key, x.strides());
  }
  taken_down->insert(std::move(key));
  return nullptr;
}

ProductKernels count_kernels(const std::set<std::vector<int64_t>>& shapes, const std::set<int64_t>& row_counts) {
  ProductKernels kernels;
  std::set<int64_t> seen;
  double of_experts = 0;
  for (const std::vector<int64_t>& shape : shapes) {
    if (row_counts.contains(shape.front())) {
      ++of_experts;
      seen.insert(shape.front());
    } else {
      ++kernels.fixed;
    }
  }
  if (!seen.empty()) kernels.per_row_count = of_experts / static_cast<double>(seen.size());
  return kernels;
}

}  // namespace moraine
