#include "nn/dropout.h"

#include <ATen/Parallel.h>

#include <bit>
#include <cmath>

#include "base/random.h"
#include "tensor/execution_device.h"

namespace moraine {
namespace {

// Two elements share a draw: its lower half decides about the even one.
constexpr int kHalf = 32;

// A half below this leaves its element out.
int64_t threshold(double rate) { return std::llround(std::ldexp(rate, kHalf)); }

float kept_factor(double rate) { return 1.0f / static_cast<float>(1 - rate); }

uint64_t draw(uint64_t row_key, int64_t pair) { return mix64(row_key + mix64(static_cast<uint64_t>(pair))); }

at::Tensor shifted(const at::Tensor& x, int64_t by) {
  // As of unsigned numbers: without the copies of the sign that come in from above.
  return at::bitwise_and(at::bitwise_right_shift(x, by), (int64_t{1} << (64 - by)) - 1);
}

// mix64 of each element; products and sums of int64 wrap around.
at::Tensor mixed(at::Tensor x) {
  x = x + std::bit_cast<int64_t>(uint64_t{0x9e3779b97f4a7c15});
  x = at::bitwise_xor(x, shifted(x, 30)) * std::bit_cast<int64_t>(uint64_t{0xbf58476d1ce4e5b9});
  x = at::bitwise_xor(x, shifted(x, 27)) * std::bit_cast<int64_t>(uint64_t{0x94d049bb133111eb});
  return at::bitwise_xor(x, shifted(x, 31));
}

}  // namespace

uint64_t dropout_layer_key(std::string_view name) { return CounterRandom(0, name).bits(0); }

uint64_t dropout_sequence_key(uint64_t seed, int64_t step, int64_t sequence) {
  const uint64_t of_step = CounterRandom(seed, "dropout").bits(static_cast<uint64_t>(step));
  return mix64(of_step + mix64(static_cast<uint64_t>(sequence)));
}

int64_t dropout_token_key(uint64_t sequence_key, int64_t token) {
  return std::bit_cast<int64_t>(mix64(sequence_key + mix64(static_cast<uint64_t>(token))));
}

at::Tensor dropout_factors_TI(const LoraDropout& dropout, int64_t width) {
  const at::Tensor& keys_T = dropout.token_keys_T;
  if (!execution_device(keys_T.device()).is_cpu()) return dropout_factors_by_tensors_TI(dropout, width);
  const at::Tensor factors_TI = at::empty({keys_T.size(0), width}, keys_T.options().dtype(at::kFloat));
  if (keys_T.is_meta()) return factors_TI;
  const int64_t* keys = keys_T.const_data_ptr<int64_t>();
  float* factors = factors_TI.mutable_data_ptr<float>();
  const auto left_out = static_cast<uint64_t>(threshold(dropout.rate));
  const float kept = kept_factor(dropout.rate);
  at::parallel_for(0, keys_T.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const uint64_t row_key = mix64(dropout.layer_key ^ std::bit_cast<uint64_t>(keys[t]));
      float* row = factors + t * width;
      for (int64_t i = 0; i < width; i += 2) {
        const uint64_t bits = draw(row_key, i / 2);
        row[i] = (bits & 0xffffffff) < left_out ? 0 : kept;
        if (i + 1 < width) row[i + 1] = (bits >> kHalf) < left_out ? 0 : kept;
      }
    }
  });
  return factors_TI;
}

at::Tensor dropout_factors_by_tensors_TI(const LoraDropout& dropout, int64_t width) {
  const at::Tensor& keys_T = dropout.token_keys_T;
  const at::Tensor rows_T1 = mixed(at::bitwise_xor(keys_T, std::bit_cast<int64_t>(dropout.layer_key))).unsqueeze(1);
  const at::Tensor bits_TP = mixed(rows_T1 + mixed(at::arange((width + 1) / 2, keys_T.options())));
  const at::Tensor halves_TI = at::stack({at::bitwise_and(bits_TP, int64_t{0xffffffff}), shifted(bits_TP, kHalf)}, 2)
                                   .flatten(1)  // also of no tokens
                                   .narrow(1, 0, width);
  return at::ge(halves_TI, threshold(dropout.rate)).to(at::kFloat).mul_(kept_factor(dropout.rate));
}

}  // namespace moraine
