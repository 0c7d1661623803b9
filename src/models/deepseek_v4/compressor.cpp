#include "models/deepseek_v4/compressor.h"

#include <limits>

#include "nn/norm.h"
#include "tensor/to_device.h"

namespace moraine::deepseek_v4 {
namespace {

// [T, C] → [E, R, C]
at::Tensor in_windows(const at::Tensor& x_TC, const Windows& windows) {
  const int64_t slots = windows.num_entries() * windows.rate;
  const at::Tensor rows =
      windows.token_of_slot.defined() ? x_TC.index_select(0, windows.token_of_slot) : x_TC.narrow(0, 0, slots);
  return rows.view({windows.num_entries(), windows.rate, x_TC.size(1)});
}

// Beside each window's own half of the columns the other half of the window before, `nothing` where there is none: [E,
// 2R, D].
at::Tensor with_window_before(const at::Tensor& x_ERC, const Windows& windows, double nothing) {
  const int64_t E = x_ERC.size(0), D = x_ERC.size(2) / 2;
  if (E == 0) return at::empty({0, 2 * windows.rate, D}, x_ERC.options());
  const at::Tensor for_next = x_ERC.narrow(2, 0, D);
  const at::Tensor before = at::cat({for_next.narrow(0, 0, 1), for_next.narrow(0, 0, E - 1)})
                                .masked_fill(windows.opens_sequence_E.view({E, 1, 1}), nothing);
  return at::cat({before, x_ERC.narrow(2, D, D)}, 1);
}

}  // namespace

Windows make_windows(const Batch& batch, int64_t rate, const RopeSpec& rope, at::ScalarType dtype) {
  Windows windows;
  windows.rate = rate;
  std::vector<int64_t> first_tokens, slots, opens;
  bool as_they_lie = true;
  for (size_t s = 0; s + 1 < batch.cu_seqlens.size(); ++s) {
    const int64_t begin = batch.cu_seqlens[s], entries = (batch.cu_seqlens[s + 1] - begin) / rate;
    as_they_lie = as_they_lie && begin == windows.num_entries() * rate;
    for (int64_t e = 0; e < entries; ++e) {
      first_tokens.push_back(begin + e * rate);
      opens.push_back(e == 0);
    }
    for (int64_t slot = 0; slot < entries * rate; ++slot) slots.push_back(begin + slot);
    windows.cu_entries.push_back(windows.num_entries() + entries);
  }
  const at::Device device = batch.position_ids_T.device();
  if (!as_they_lie) windows.token_of_slot = to_device(slots, device);
  windows.opens_sequence_E = to_device(opens, device).to(at::kBool);
  windows.rotation_E =
      make_rotation(batch.position_ids_T.index_select(0, to_device(first_tokens, device)), rope, dtype);
  return windows;
}

at::Tensor compress(const at::Tensor& kv_TC, const at::Tensor& gate_TC, const CompressorWeights& weights,
                    const Windows& windows) {
  at::Tensor kv = in_windows(kv_TC, windows);
  at::Tensor gate = in_windows(gate_TC, windows) + weights.position_bias_RC;
  if (kv_TC.size(1) == 2 * weights.kv_norm_D.size(0)) {
    kv = with_window_before(kv, windows, 0);
    gate = with_window_before(gate, windows, -std::numeric_limits<double>::infinity());
  }
  const at::Tensor mixed_ED = (kv * at::softmax(gate, 1, at::kFloat).to(kv.scalar_type())).sum(1);
  return rotate(rms_norm(mixed_ED, weights.kv_norm_D, weights.rms_norm_eps), windows.rotation_E);
}

}  // namespace moraine::deepseek_v4
