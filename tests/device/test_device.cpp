#include "device/test_device.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <fmt/format.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <vector>

#include "device/device_memory.h"
#include "device/device_streams.h"
#include "device/operator_rules.h"

namespace moraine::testing_support {
namespace {

constexpr c10::DispatchKeySet kOnDevice{c10::DispatchKey::PrivateUse1};

std::mutex log_mutex;
DeviceLog* open_log = nullptr;
thread_local int waits_forbidden = 0;

void log_operator(const std::string& name, int64_t launches, int64_t bytes, int64_t waits) {
  if (waits) {
    TORCH_CHECK(!waits_forbidden, "test device: the host waits for ", name);
    wait_on_host();
  }
  const std::lock_guard lock(log_mutex);
  if (!open_log) return;
  DeviceLog::Operator& entry = open_log->operators[name];
  entry.launches += launches;
  entry.bytes += bytes;
  entry.waits += waits;
}

bool on_device(const at::Tensor& x) { return x.defined() && x.device().type() == c10::kPrivateUse1; }

// The tensors of a value, given to `visit` by reference, and put back.
template <typename Visit>
void for_each_tensor(c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    at::Tensor tensor = value.toTensor();
    visit(tensor);
    value = tensor;
  } else if (value.isTensorList()) {
    std::vector<at::Tensor> tensors = value.toTensorVector();
    for (at::Tensor& tensor : tensors) visit(tensor);
    value = c10::List<at::Tensor>(tensors);
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> tensors;
    for (std::optional<at::Tensor> tensor : value.toOptionalTensorVector()) {
      if (tensor) visit(*tensor);
      tensors.push_back(tensor);
    }
    value = tensors;
  }
}

// The same memory as a tensor of the CPU's.
at::Tensor as_host(const at::Tensor& x) {
  if (x.numel() == 0) return at::empty_strided(x.sizes(), x.strides(), x.options().device(c10::kCPU));
  char* data = static_cast<char*>(x.unsafeGetTensorImpl()->storage().mutable_data());
  at::Tensor host = at::from_blob(data + x.storage_offset() * x.element_size(), x.sizes(), x.strides(),
                                  x.options().device(c10::kCPU).requires_grad(false).pinned_memory(false));
  host._set_conj(x.is_conj());
  host._set_neg(x.is_neg());
  return host;
}

BlockUse use_of(const at::Tensor& x, bool writes) {
  return {x.numel() ? x.unsafeGetTensorImpl()->storage().data() : nullptr, writes};
}

// Growing makes new memory, as empty outputs of operators do.
const at::Tensor& resize_output(const at::Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
  at::TensorImpl* tensor = self.unsafeGetTensorImpl();
  tensor->set_sizes_contiguous(size);
  const size_t needed = (static_cast<size_t>(tensor->numel()) + static_cast<size_t>(self.storage_offset())) *
                        static_cast<size_t>(self.element_size());
  if (needed > self.storage().nbytes()) {
    TORCH_CHECK(self.storage().nbytes() == 0, "test device: a tensor with values grows");
    self.storage().set_data_ptr_noswap(device_allocator().allocate(needed));
    self.storage().set_nbytes(needed);
  }
  return self;
}

// Of what a kernel has made.
void write(const at::Tensor& result, const at::Tensor& host) {
  const BlockUse uses[] = {use_of(result, true)};
  const KernelAccess access(uses);
  if (host.numel()) as_host(result).copy_(host);
}

// Runs the CPU's kernel of an operator on the device's memory.
void run_on_host_kernels(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const std::string name = schema.operator_name().name.substr(schema.operator_name().name.find("::") + 2);
  const std::string full_name =
      schema.operator_name().name + (schema.overload_name().empty() ? "" : "." + schema.overload_name());
  const size_t count = schema.arguments().size(), first = stack->size() - count;
  check_cuda_rules(name, c10::ArrayRef<c10::IValue>(stack->data() + first, count));

  std::vector<BlockUse> uses;
  std::vector<c10::IValue> given(stack->begin() + static_cast<int64_t>(first), stack->end());
  int64_t bytes = 0;
  for (size_t i = 0; i < count; ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    const bool writes = argument.alias_info() && argument.alias_info()->isWrite();
    for_each_tensor((*stack)[first + i], [&](at::Tensor& tensor) {
      if (!tensor.defined()) return;
      TORCH_CHECK(on_device(tensor) || (tensor.is_cpu() && tensor.dim() == 0 && !writes), "test device: ", full_name,
                  ": argument '", argument.name(), "' is on ", tensor.device(), ", others on ", registered_device());
      bytes += static_cast<int64_t>(tensor.nbytes());
      if (on_device(tensor)) uses.push_back(use_of(tensor, writes));
    });
    if ((*stack)[first + i].isDevice()) (*stack)[first + i] = c10::Device(c10::kCPU);
  }
  {
    const KernelAccess access(uses);
    for (size_t i = 0; i < count; ++i)
      for_each_tensor((*stack)[first + i], [&](at::Tensor& tensor) {
        if (on_device(tensor)) tensor = as_host(tensor);
      });
    const std::vector<c10::IValue> hosts(stack->begin() + static_cast<int64_t>(first), stack->end());
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    // What it returns: an argument that it wrote, or new tensors.
    const size_t returned = stack->size() - schema.returns().size();
    for (size_t i = 0; i < schema.returns().size(); ++i) {
      c10::IValue& value = (*stack)[returned + i];
      const c10::AliasInfo* alias = schema.returns()[i].alias_info();
      if (alias) {
        TORCH_CHECK(alias->isWrite(), "test device: ", full_name, " returns a view and has no kernel of the device's");
        for (size_t argument = 0; argument < count; ++argument) {
          const c10::AliasInfo* of_argument = schema.arguments()[argument].alias_info();
          if (!of_argument || *of_argument != *alias || !given[argument].isTensor()) continue;
          const at::Tensor host = hosts[argument].toTensor(), result = given[argument].toTensor();
          if (host.sizes() != result.sizes()) {
            TORCH_CHECK(result.numel() == 0, "test device: ", full_name, " resizes an output that has values");
            resize_output(result, host.sizes(), std::nullopt);
            write(result, host);
            bytes += static_cast<int64_t>(host.nbytes());
          }
          value = result;
        }
        continue;
      }
      for_each_tensor(value, [&](at::Tensor& host) {
        if (!host.defined()) return;
        const at::Tensor result =
            at::empty_strided(host.sizes(), host.strides(), host.options().device(registered_device()));
        write(result, host);
        bytes += static_cast<int64_t>(host.nbytes());
        host = result;
      });
    }
  }
  log_operator(full_name, 1, bytes, waits_for_values(name));
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &device_allocator(), kOnDevice, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &device_allocator(), kOnDevice, c10::dtype_or_default(dtype));
}

at::Tensor as_strided(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride,
                      std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

// Between any two devices, converting.
at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool non_blocking) {
  const auto shown = [](const at::Tensor& x) { return on_device(x) ? as_host(x) : x; };
  const bool crosses = on_device(self) != on_device(to);
  const at::Tensor& of_host = on_device(self) ? to : self;
  const bool pinned = crosses && is_pinned_address(of_host.const_data_ptr());
  {
    const BlockUse uses[] = {use_of(self, false), use_of(to, true)};
    const KernelAccess access(uses);
    if (to.numel()) shown(to).copy_(self.sizes() == to.sizes() ? shown(self) : shown(self).expand(to.sizes()));
  }
  const char* direction = !crosses ? "copy" : on_device(self) ? "copy to host" : "copy from host";
  log_operator(direction, 1, static_cast<int64_t>(self.nbytes() + to.nbytes()), crosses && !(pinned && non_blocking));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  to.resize_(self.sizes());
  return to.copy_(self);
}

at::Scalar local_scalar(const at::Tensor& self) {
  const BlockUse uses[] = {use_of(self, false)};
  const KernelAccess access(uses);
  log_operator("aten::_local_scalar_dense", 0, self.element_size(), 1);
  return as_host(self).item();
}

// CUDA has a kernel; the CPU's is a composite that would loop on the host.
at::Tensor grouped_mm(const at::Tensor& self, const at::Tensor& mat2, const std::optional<at::Tensor>& offs,
                      const std::optional<at::Tensor>& bias, std::optional<at::ScalarType> dtype) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::_grouped_mm", "");
  torch::jit::Stack stack{self, mat2, offs, bias, dtype};
  run_on_host_kernels(op, &stack);
  return stack.at(0).toTensor();
}

// Attention takes the fused kernel where CUDA would: dtypes of 16 bits without a mask, heads that fit.
int64_t choose_attention(const at::Tensor& q, const at::Tensor&, const at::Tensor&,
                         const std::optional<at::Tensor>& mask, double, bool, std::optional<double>, bool) {
  const bool fits = q.size(-1) % 8 == 0 && q.size(-1) <= 256 && q.numel() > 0;
  return static_cast<int64_t>(fits && !mask ? at::SDPBackend::overrideable : at::SDPBackend::math);
}

// The host's attention wants as many heads of k and v as of q; a GPU's reads each for several of q's. So here the host
// repeats and sums them, which is no work of the device's and not logged.
at::Tensor with_heads_of_host(const at::Tensor& x, const std::function<at::Tensor(const at::Tensor&)>& changed) {
  at::Tensor host;
  {
    const BlockUse uses[] = {use_of(x, false)};
    const KernelAccess access(uses);
    host = changed(as_host(x)).contiguous();
  }
  const at::Tensor result = at::empty_strided(host.sizes(), host.strides(), x.options());
  write(result, host);
  return result;
}
at::Tensor for_each_query(const at::Tensor& x_BKSD, int64_t heads) {
  const int64_t times = heads / x_BKSD.size(1);
  if (times == 1) return x_BKSD;
  return with_heads_of_host(x_BKSD, [&](const at::Tensor& x) { return x.repeat_interleave(times, 1); });
}
at::Tensor sum_over_queries(const at::Tensor& d_BNSD, int64_t kv_heads) {
  if (d_BNSD.size(1) == kv_heads) return d_BNSD;
  return with_heads_of_host(d_BNSD, [&](const at::Tensor& d) { return d.unflatten(1, {kv_heads, -1}).sum(2); });
}

using Attention = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, c10::SymInt, c10::SymInt, at::Tensor,
                             at::Tensor, at::Tensor>;
Attention attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>&,
                    double dropout, bool causal, bool, std::optional<double> scale) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("aten::_scaled_dot_product_flash_attention_for_cpu", "");
  const int64_t heads = q.size(1);
  torch::jit::Stack stack{
      q, for_each_query(k, heads), for_each_query(v, heads), dropout, causal, std::optional<at::Tensor>(), scale};
  run_on_host_kernels(op, &stack);
  return {stack.at(0).toTensor(), stack.at(1).toTensor(), {}, {}, q.size(2), k.size(2), {}, {}, {}};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> attention_backward(
    const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor&,
    std::array<bool, 4>, const at::Tensor& y, const at::Tensor& log_sum, const at::Tensor&, const at::Tensor&,
    c10::SymInt, c10::SymInt, double dropout, bool causal, const at::Tensor&, const at::Tensor&,
    std::optional<double> scale) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "");
  const int64_t heads = q.size(1), kv_heads = k.size(1);
  torch::jit::Stack stack{dy,
                          q,
                          for_each_query(k, heads),
                          for_each_query(v, heads),
                          y,
                          log_sum,
                          dropout,
                          causal,
                          std::optional<at::Tensor>(),
                          scale};
  run_on_host_kernels(op, &stack);
  return {stack.at(0).toTensor(),
          sum_over_queries(stack.at(1).toTensor(), kv_heads),
          sum_over_queries(stack.at(2).toTensor(), kv_heads),
          {}};
}

// Flash attention with a window, of [B, T, N, D], by the host's with a mask.
std::optional<at::Tensor> window_mask(const at::Tensor& q_BTND, const at::Tensor& k_BSKD, bool causal,
                                      std::optional<c10::SymInt> left, std::optional<c10::SymInt> right) {
  TORCH_CHECK(causal && q_BTND.size(1) == k_BSKD.size(1),
              "the test device's flash attention is causal, of whole texts");
  TORCH_CHECK(left.has_value() == right.has_value() && (!right || *right == 0), "a window ends at the query");
  if (!left) return std::nullopt;
  const int64_t T = q_BTND.size(1), seen = left->expect_int() + 1;
  const at::Tensor hidden = at::ones({T, T}, at::kBool).triu(1).logical_or_(at::ones({T, T}, at::kBool).tril(-seen));
  const at::Tensor host = at::zeros({T, T}, q_BTND.scalar_type()).masked_fill_(hidden, -INFINITY);
  const at::Tensor mask = at::empty_strided(host.sizes(), host.strides(), q_BTND.options());
  write(mask, host);
  return mask;
}

using Flash = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
Flash flash_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>&,
                      const std::optional<at::Tensor>&, c10::SymInt, c10::SymInt, double dropout, bool causal, bool,
                      std::optional<double> scale, std::optional<c10::SymInt> left, std::optional<c10::SymInt> right,
                      const std::optional<at::Tensor>&, const std::optional<at::Tensor>&,
                      const std::optional<at::Tensor>&, std::optional<int64_t>) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("aten::_scaled_dot_product_flash_attention_for_cpu", "");
  const std::optional<at::Tensor> mask = window_mask(q, k, causal, left, right);
  const int64_t heads = q.size(2);
  const auto by_head = [&](const at::Tensor& x) { return for_each_query(x.transpose(1, 2), heads); };
  torch::jit::Stack stack{by_head(q), by_head(k), by_head(v), dropout, !mask, mask, scale};
  run_on_host_kernels(op, &stack);
  return {stack.at(0).toTensor().transpose(1, 2), stack.at(1).toTensor().contiguous(), q, q, q};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_attention_backward(
    const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& y,
    const at::Tensor& log_sum, const at::Tensor&, const at::Tensor&, c10::SymInt, c10::SymInt, double dropout,
    bool causal, const at::Tensor&, const at::Tensor&, std::optional<double> scale, std::optional<c10::SymInt> left,
    std::optional<c10::SymInt> right) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "");
  TORCH_CHECK(log_sum.is_contiguous() && log_sum.scalar_type() == at::kFloat, "a GPU's kernel reads [B, N, T] in fp32");
  const std::optional<at::Tensor> mask = window_mask(q, k, causal, left, right);
  const int64_t heads = q.size(2), kv_heads = k.size(2);
  const auto by_head = [&](const at::Tensor& x) { return for_each_query(x.transpose(1, 2), heads); };
  torch::jit::Stack stack{by_head(dy), by_head(q), by_head(k), by_head(v), by_head(y),
                          log_sum,     dropout,    !mask,      mask,       scale};
  run_on_host_kernels(op, &stack);
  const auto by_token = [&](size_t i, int64_t of) {
    return sum_over_queries(stack.at(i).toTensor(), of).transpose(1, 2);
  };
  return {by_token(0, heads), by_token(1, kv_heads), by_token(2, kv_heads)};
}

struct Hooks : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  // Nothing draws on the device; at::manual_seed() seeds every device's generator.
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static const at::Generator* const kept = new at::Generator(at::make_generator<at::CPUGeneratorImpl>());
    return *kept;
  }
  bool isPinnedPtr(const void* data) const override { return is_pinned_address(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator(); }
  c10::Device getDeviceFromPtr(void*) const override { return {c10::kPrivateUse1, 0}; }
};

// Kept until the process ends.
struct Registration {
  torch::Library aten{torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__};
  torch::Library all{torch::Library::IMPL, "_", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__};

  // Copies resolve conjugate and negated views themselves.
  torch::Library conjugate{torch::Library::IMPL, "aten", c10::DispatchKey::Conjugate, __FILE__, __LINE__};
  torch::Library negative{torch::Library::IMPL, "aten", c10::DispatchKey::Negative, __FILE__, __LINE__};

  Registration() {
    conjugate.impl("_copy_from", torch::CppFunction::makeFallthrough());
    negative.impl("_copy_from", torch::CppFunction::makeFallthrough());
    c10::register_privateuse1_backend("testdevice");
    c10::SetAllocator(c10::kPrivateUse1, &device_allocator());
    c10::impl::registerDeviceGuard(c10::kPrivateUse1, &device_guard());
    at::RegisterPrivateUse1HooksInterface(new Hooks);
    all.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host_kernels>());
    aten.impl("empty.memory_format", TORCH_FN(empty));
    aten.impl("empty_strided", TORCH_FN(empty_strided));
    aten.impl("as_strided", TORCH_FN(as_strided));
    aten.impl("view", TORCH_FN(at::native::view));
    aten.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
    aten.impl("unfold", TORCH_FN(at::native::unfold));
    aten.impl("view_as_complex", TORCH_FN(at::native::view_as_complex));
    aten.impl("view_as_real", TORCH_FN(at::native::view_as_real));
    aten.impl("resize_", TORCH_FN(resize_output));
    aten.impl("_copy_from", TORCH_FN(copy_from));
    aten.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
    aten.impl("_local_scalar_dense", TORCH_FN(local_scalar));
    aten.impl("_grouped_mm", TORCH_FN(grouped_mm));
    aten.impl("_scaled_dot_product_fused_attention_overrideable", TORCH_FN(attention));
    aten.impl("_scaled_dot_product_fused_attention_overrideable_backward", TORCH_FN(attention_backward));
    aten.impl("_flash_attention_forward", TORCH_FN(flash_attention));
    aten.impl("_flash_attention_backward", TORCH_FN(flash_attention_backward));
    at::native::_fused_sdp_choice_stub.set_privateuse1_dispatch_ptr(&choose_attention);
  }
};

}  // namespace

c10::Device registered_device() {
  static const Registration* const registration = new Registration;
  (void)registration;
  return {c10::kPrivateUse1, 0};
}

c10::Device test_device() {
  const char* setting = std::getenv("MORAINE_TEST_DEVICE");
  const std::string name = setting && *setting ? setting : "cpu";
  if (name == "cpu") return c10::kCPU;
  if (name == "test") return registered_device();
  if (name == "cuda") return {c10::kCUDA, 0};
  throw std::runtime_error("MORAINE_TEST_DEVICE: '" + name + "' is not cpu, test or cuda");
}

DeviceLog::Operator DeviceLog::sum() const {
  Operator sum;
  for (const auto& [name, entry] : operators) {
    sum.launches += entry.launches;
    sum.bytes += entry.bytes;
    sum.waits += entry.waits;
  }
  return sum;
}

std::string DeviceLog::table() const {
  std::vector<std::pair<std::string, Operator>> rows(operators.begin(), operators.end());
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.second.bytes > b.second.bytes; });
  std::string text;
  for (const auto& [name, entry] : rows)
    text +=
        fmt::format("{:>8} launches {:>12} bytes {:>4} waits  {}\n", entry.launches, entry.bytes, entry.waits, name);
  return text;
}

namespace {
DeviceLog kept_log;
}
DeviceLogScope::DeviceLogScope() {
  const std::lock_guard lock(log_mutex);
  TORCH_CHECK(!open_log, "a log is open");
  kept_log = {};
  open_log = &kept_log;
}
DeviceLogScope::~DeviceLogScope() {
  const std::lock_guard lock(log_mutex);
  open_log = nullptr;
}
DeviceLog DeviceLogScope::log() const {
  const std::lock_guard lock(log_mutex);
  return kept_log;
}

NoHostWaits::NoHostWaits() { ++waits_forbidden; }
NoHostWaits::~NoHostWaits() { --waits_forbidden; }

Fp64Products::Fp64Products() { allow_fp64_products(true); }
Fp64Products::~Fp64Products() { allow_fp64_products(false); }

}  // namespace moraine::testing_support
