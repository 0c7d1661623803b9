#include "tensor/planned_tensors.h"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <string>
#include <tuple>
#include <vector>

namespace moraine {
namespace {

at::Tensor index_select(const at::Tensor& self, int64_t dim, const at::Tensor& index) {
  std::vector<int64_t> shape = self.sizes().vec();
  shape.at(at::maybe_wrap_dim(dim, self.dim())) = index.numel();
  return at::empty(shape, self.options());
}

at::Tensor flip(const at::Tensor& self, at::IntArrayRef) { return at::empty_like(self); }

at::Tensor& unary_out(const at::Tensor& self, at::Tensor& out) {
  out.resize_(self.sizes());
  return out;
}

// Of two tensors, element by element.
at::Tensor& elementwise_out(const at::Tensor& self, const at::Tensor& other, at::Tensor& out) {
  out.resize_(at::infer_size(self.sizes(), other.sizes()));
  return out;
}
at::Tensor elementwise(const at::Tensor& self, const at::Tensor& other) {
  return at::empty(at::infer_size(self.sizes(), other.sizes()), self.options());
}

// None is zero.
at::Tensor nonzero(const at::Tensor& self) {
  return at::empty({self.numel(), self.dim()}, self.options().dtype(at::kLong));
}

at::Tensor& solve_triangular_out(const at::Tensor&, const at::Tensor&, bool, bool, bool, at::Tensor& out) {
  return out;
}

at::Tensor searchsorted(const at::Tensor&, const at::Tensor& self, bool out_int32, bool,
                        std::optional<c10::string_view>, const std::optional<at::Tensor>&) {
  return at::empty(self.sizes(), self.options().dtype(out_int32 ? at::kInt : at::kLong));
}

at::Tensor grouped_mm(const at::Tensor& self, const at::Tensor& mat2, const std::optional<at::Tensor>& offs,
                      const std::optional<at::Tensor>&, std::optional<at::ScalarType> dtype) {
  std::vector<int64_t> shape{self.size(0), mat2.size(-1)};
  if (mat2.dim() == 2) shape.insert(shape.begin(), offs.value().size(0));
  return at::empty(shape, self.options().dtype(dtype.value_or(self.scalar_type())));
}

// Tokens lie before heads in what attention returns, [B, N, T, D].
at::Tensor empty_by_token(const at::Tensor& x_BNTD) {
  return at::empty({x_BNTD.size(0), x_BNTD.size(2), x_BNTD.size(1), x_BNTD.size(3)}, x_BNTD.options()).transpose(1, 2);
}

std::tuple<at::Tensor, at::Tensor> attention(const at::Tensor& q, const at::Tensor&, const at::Tensor&, double, bool,
                                             const std::optional<at::Tensor>&, std::optional<double>) {
  return {empty_by_token(q), at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(at::kFloat)).transpose(1, 2)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(const at::Tensor&, const at::Tensor& q,
                                                                  const at::Tensor& k, const at::Tensor& v,
                                                                  const at::Tensor&, const at::Tensor& log_sum, double,
                                                                  bool, const std::optional<at::Tensor>&,
                                                                  std::optional<double>) {
  // CUDA's kernel adds up d q in fp32, and d k and d v of grouped queries after it has them for each query's head.
  at::Tensor sums, dots, d_k, d_v;
  if (execution_device(q.device()).is_cuda()) {
    sums = at::empty(q.sizes(), q.options().dtype(at::kFloat));
    dots = at::empty_like(log_sum);
    if (k.size(1) < q.size(1)) d_k = at::empty_like(q), d_v = at::empty_like(q);
  }
  return {empty_by_token(q), empty_by_token(k), empty_by_token(v)};
}

}  // namespace

// Registered for as long as this lives.
struct PlannedTensors::Kernels {
  torch::Library library{torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__};

  Kernels() {
    add("index_select", TORCH_FN(index_select));
    add("flip", TORCH_FN(flip));
    for (const char* name : {"complex.out", "floor_divide.out", "logical_or.out"}) add(name, TORCH_FN(elementwise_out));
    for (const char* name : {"abs.out", "conj_physical.out"}) add(name, TORCH_FN(unary_out));
    add("floor_divide", TORCH_FN(elementwise));
    add("nonzero", TORCH_FN(nonzero));
    add("linalg_solve_triangular.out", TORCH_FN(solve_triangular_out));
    add("searchsorted.Tensor", TORCH_FN(searchsorted));
    add("_grouped_mm", TORCH_FN(grouped_mm));
    add("_scaled_dot_product_flash_attention_for_cpu", TORCH_FN(attention));
    add("_scaled_dot_product_flash_attention_for_cpu_backward", TORCH_FN(attention_backward));
  }

  // Unless this libtorch has one.
  template <typename Kernel>
  void add(const std::string& name, const Kernel& kernel) {
    const size_t dot = name.find('.');
    const std::string overload = dot == std::string::npos ? "" : name.substr(dot + 1);
    const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow(("aten::" + name.substr(0, dot)).c_str(), overload.c_str());
    if (!op.hasKernelForDispatchKey(c10::DispatchKey::Meta)) library.impl(name.c_str(), kernel);
  }
};

PlannedTensors::PlannedTensors(c10::Device device)
    : device_(device), memory_(c10::DeviceType::Meta), kernels_(std::make_unique<Kernels>()) {}
PlannedTensors::~PlannedTensors() = default;

}  // namespace moraine
