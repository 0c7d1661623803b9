#include "kernels/row_ops.h"

#include <algorithm>
#include <cmath>

#include "base/cpu_features.h"
#include "kernels/simd.h"

namespace moraine::kernels {
namespace {

// Sixteen floats, in as many registers as they take: what is summed side by side is the same on every processor.
constexpr int kBlock = 16;
template <int Lanes>
struct Block {
  static constexpr int kParts = kBlock / Lanes;
  using Float = typename Vectors<Lanes>::Float;
  Float part[kParts];
};

template <int Lanes, typename F>
MORAINE_INLINE Block<Lanes> make(const F& of_part) {
  Block<Lanes> b;
#pragma GCC unroll 4
  for (int i = 0; i < Block<Lanes>::kParts; ++i) b.part[i] = of_part(i);
  return b;
}
template <int L>
MORAINE_INLINE Block<L> operator+(const Block<L>& a, const Block<L>& b) {
  return make<L>([&](int i) __attribute__((always_inline)) { return a.part[i] + b.part[i]; });
}
template <int L>
MORAINE_INLINE Block<L> operator-(const Block<L>& a, const Block<L>& b) {
  return make<L>([&](int i) __attribute__((always_inline)) { return a.part[i] - b.part[i]; });
}
template <int L>
MORAINE_INLINE Block<L> operator*(const Block<L>& a, const Block<L>& b) {
  return make<L>([&](int i) __attribute__((always_inline)) { return a.part[i] * b.part[i]; });
}
template <int L>
MORAINE_INLINE Block<L> operator/(const Block<L>& a, const Block<L>& b) {
  return make<L>([&](int i) __attribute__((always_inline)) { return a.part[i] / b.part[i]; });
}
template <int L>
MORAINE_INLINE Block<L> all(float x) {
  return make<L>([&](int) __attribute__((always_inline)) { return typename Block<L>::Float{} + x; });
}
// a · b + c
template <int L>
MORAINE_INLINE Block<L> fused(const Block<L>& a, const Block<L>& b, const Block<L>& c) {
  return make<L>([&](int i) __attribute__((always_inline)) { return a.part[i] * b.part[i] + c.part[i]; });
}
// The second where one is a NaN.
template <int L>
MORAINE_INLINE Block<L> larger(const Block<L>& a, const Block<L>& b) {
  return make<L>([&](int i) __attribute__((always_inline)) { return a.part[i] > b.part[i] ? a.part[i] : b.part[i]; });
}
template <int L>
MORAINE_INLINE Block<L> smaller(const Block<L>& a, const Block<L>& b) {
  return make<L>([&](int i) __attribute__((always_inline)) { return a.part[i] < b.part[i] ? a.part[i] : b.part[i]; });
}

// v between low and high; a NaN stays one.
template <int L>
MORAINE_INLINE Block<L> clamped(const Block<L>& v, const Block<L>& low, const Block<L>& high) {
  return larger(low, smaller(high, v));
}

// The first n of a block; the others are `other`.
template <int L, typename T>
MORAINE_INLINE Block<L> load_block(const T* from, int64_t n, float other = 0) {
  if (n >= kBlock) return make<L>([&](int i) __attribute__((always_inline)) { return load_floats<L>(from + i * L); });
  float some[kBlock];
  for (int64_t i = 0; i < kBlock; ++i) some[i] = i < n ? to_float(from[i]) : other;
  return make<L>([&](int i) __attribute__((always_inline)) { return load_floats<L>(some + i * L); });
}
template <int L, typename T>
MORAINE_INLINE void store_block(T* to, const Block<L>& b, int64_t n) {
  if (n >= kBlock) {
#pragma GCC unroll 4
    for (int i = 0; i < Block<L>::kParts; ++i) store_floats<L>(to + i * L, b.part[i]);
    return;
  }
  float some[kBlock];
  for (int i = 0; i < Block<L>::kParts; ++i) store(some + i * L, b.part[i]);
  for (int64_t i = 0; i < n; ++i) from_float(some[i], to + i);
}
// As it would be after a store and a load.
template <int L>
MORAINE_INLINE Block<L> rounded_to(const Block<L>& b, float) {
  return b;
}
template <int L>
MORAINE_INLINE Block<L> rounded_to(const Block<L>& b, BFloat16) {
  return make<L>([&](int i) __attribute__((always_inline)) { return rounded_to_bf16<L>(b.part[i]); });
}

template <int L>
MORAINE_INLINE float sum(const Block<L>& b) {
  float x[kBlock];
  for (int i = 0; i < Block<L>::kParts; ++i) store(x + i * L, b.part[i]);
#pragma GCC unroll 4
  for (int half = kBlock / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}
template <int L>
MORAINE_INLINE float largest(const Block<L>& b) {
  float x[kBlock];
  for (int i = 0; i < Block<L>::kParts; ++i) store(x + i * L, b.part[i]);
  return *std::max_element(x, x + kBlock);
}

// e^x within 2 units in the last place: x = n · ln 2 + r, e^r by a polynomial of degree 6 (Cody and Waite's reduction).
template <int L>
MORAINE_INLINE Block<L> exponential(const Block<L>& x) {
  using V = Vectors<L>;
  return make<L>([&](int i) __attribute__((always_inline)) {
    using F = typename V::Float;
    const F low = F{} - 87.3365F, high = F{} + 88.7228F;
    F y = x.part[i] < low ? low : x.part[i];  // a NaN stays one
    y = y > high ? high : y;
    const F shifted = y * 1.44269504F + 12582912.0F;  // its last bits are n
    const F n = shifted - 12582912.0F;
    F r = y - n * 0.693359375F;
    r = r + n * 2.12194440e-4F;
    F p = F{} + 1.9875691500e-4F;
    p = p * r + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    const F e = p * (r * r) + r + 1.0F;
    // 2^n in two steps: n reaches 128.
    const auto bits = std::bit_cast<typename V::Int>(shifted) - 0x4B400000;
    const auto half = bits >> 1;
    const F first = std::bit_cast<F>((half + 127) << 23), second = std::bit_cast<F>((bits - half + 127) << 23);
    return e * first * second;
  });
}
template <int L>
MORAINE_INLINE Block<L> sigmoid(const Block<L>& x) {
  const Block<L> one = all<L>(1);
  return one / (one + exponential<L>(all<L>(0) - x));
}

template <typename T>
MORAINE_INLINE const T* row_of(const Matrix& m, int64_t row) {
  return static_cast<const T*>(m.data) + row * m.row_stride;
}
template <typename T>
MORAINE_INLINE T* row_of(const MutableMatrix& m, int64_t row) {
  return static_cast<T*>(m.data) + row * m.row_stride;
}

template <int L, typename T>
MORAINE_INLINE void rms_norm_of(const Matrix& x, int64_t rows, int64_t width, float eps, const RmsNormWeight& weight,
                                const MutableMatrix& out, float* rstd) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* from = row_of<T>(x, row);
    T* to = row_of<T>(out, row);
    Block<L> squares = all<L>(0);
    for (int64_t i = 0; i < width; i += kBlock) {
      const Block<L> v = load_block<L>(from + i, width - i);
      squares = fused(v, v, squares);
    }
    rstd[row] = 1.0F / std::sqrt(sum(squares) / static_cast<float>(width) + eps);
    const Block<L> factor = all<L>(rstd[row]);
    for (int64_t i = 0; i < width; i += kBlock) {
      Block<L> normed = load_block<L>(from + i, width - i) * factor;
      if (weight.rounds_before) normed = rounded_to(normed, T{});
      store_block<L>(to + i, normed * load_block<L>(weight.values + i, width - i), width - i);
    }
  }
}

template <int L, typename T>
MORAINE_INLINE void rms_norm_backward_of(const Matrix& dy, const Matrix& x, int64_t rows, int64_t width,
                                         const float* weight, const float* rstd, const MutableMatrix& dx) {
  for (int64_t row = 0; row < rows; ++row) {
    const T *g = row_of<T>(dy, row), *from = row_of<T>(x, row);
    T* to = row_of<T>(dx, row);
    const Block<L> factor = all<L>(rstd[row]);
    Block<L> dots = all<L>(0);
    for (int64_t i = 0; i < width; i += kBlock) {
      const Block<L> d = load_block<L>(g + i, width - i) * load_block<L>(weight + i, width - i);
      dots = fused(d, load_block<L>(from + i, width - i) * factor, dots);
    }
    const Block<L> mean = all<L>(sum(dots) / static_cast<float>(width));
    for (int64_t i = 0; i < width; i += kBlock) {
      const Block<L> d = load_block<L>(g + i, width - i) * load_block<L>(weight + i, width - i);
      const Block<L> normed = load_block<L>(from + i, width - i) * factor;
      store_block<L>(to + i, (d - normed * mean) * factor, width - i);
    }
  }
}

template <int L, typename T>
MORAINE_INLINE void swiglu_of(const Matrix& gate_up, int64_t rows, int64_t width, float limit,
                              const MutableMatrix& out) {
  const Block<L> most = all<L>(limit), least = all<L>(-limit);
  for (int64_t row = 0; row < rows; ++row) {
    const T* gates = row_of<T>(gate_up, row);
    T* to = row_of<T>(out, row);
    for (int64_t i = 0; i < width; i += kBlock) {
      const Block<L> gate = smaller(most, load_block<L>(gates + i, width - i));
      const Block<L> up = clamped(load_block<L>(gates + width + i, width - i), least, most);
      store_block<L>(to + i, rounded_to(gate * sigmoid(gate), T{}) * up, width - i);
    }
  }
}

// 1 where low <= v <= high, or where v is a NaN; else 0.
template <int L>
MORAINE_INLINE Block<L> within(const Block<L>& v, const Block<L>& low, const Block<L>& high) {
  return make<L>([&](int i) __attribute__((always_inline)) {
    using F = typename Block<L>::Float;
    const F below = v.part[i] > high.part[i] ? F{} : F{} + 1.0F;
    return v.part[i] < low.part[i] ? F{} : below;
  });
}

template <int L, typename T>
MORAINE_INLINE void swiglu_backward_of(const Matrix& dy, const Matrix& gate_up, int64_t rows, int64_t width,
                                       float limit, const MutableMatrix& d_gate_up) {
  const Block<L> most = all<L>(limit), least = all<L>(-limit), one = all<L>(1);
  const bool clamps = std::isfinite(limit);
  const Block<L> no_least = all<L>(-INFINITY);
  for (int64_t row = 0; row < rows; ++row) {
    const T *g = row_of<T>(dy, row), *gates = row_of<T>(gate_up, row);
    T* to = row_of<T>(d_gate_up, row);
    for (int64_t i = 0; i < width; i += kBlock) {
      const int64_t n = width - i;
      const Block<L> raw_gate = load_block<L>(gates + i, n), raw_up = load_block<L>(gates + width + i, n);
      const Block<L> gate = smaller(most, raw_gate), up = clamped(raw_up, least, most);
      const Block<L> d = load_block<L>(g + i, n), s = sigmoid(gate);
      Block<L> d_up = d * rounded_to(gate * s, T{});
      Block<L> d_gate = rounded_to(d * up, T{}) * (s * fused(gate, one - s, one));
      if (clamps) {
        d_gate = d_gate * within(raw_gate, no_least, most);
        d_up = d_up * within(raw_up, least, most);
      }
      store_block<L>(to + i, d_gate, n);
      store_block<L>(to + width + i, d_up, n);
    }
  }
}

// Up to kBlock pairs of a row, taken apart and put together.
template <int L>
struct Pairs {
  Block<L> first, second;
};
template <int L, typename T>
MORAINE_INLINE Pairs<L> load_pairs(const T* from, int64_t n) {
  float first[kBlock], second[kBlock];
  for (int64_t i = 0; i < kBlock; ++i) {
    first[i] = i < n ? to_float(from[2 * i]) : 0;
    second[i] = i < n ? to_float(from[2 * i + 1]) : 0;
  }
  return {load_block<L>(first, kBlock), load_block<L>(second, kBlock)};
}
template <int L, typename T>
MORAINE_INLINE void store_pairs(T* to, const Pairs<L>& pairs, int64_t n) {
  float first[kBlock], second[kBlock];
  store_block<L>(first, pairs.first, kBlock);
  store_block<L>(second, pairs.second, kBlock);
  for (int64_t i = 0; i < std::min<int64_t>(n, kBlock); ++i) {
    from_float(first[i], to + 2 * i);
    from_float(second[i], to + 2 * i + 1);
  }
}

constexpr float kSteepness = 1.702F;

template <int L, typename T>
MORAINE_INLINE void clamped_swiglu_of(const Matrix& gate_up, int64_t rows, int64_t width, float limit,
                                      const MutableMatrix& out) {
  const Block<L> most = all<L>(limit), least = all<L>(-limit), one = all<L>(1), steepness = all<L>(kSteepness);
  for (int64_t row = 0; row < rows; ++row) {
    const T* pairs = row_of<T>(gate_up, row);
    T* to = row_of<T>(out, row);
    for (int64_t i = 0; i < width; i += kBlock) {
      const Pairs<L> raw = load_pairs<L>(pairs + 2 * i, width - i);
      const Block<L> gate = smaller(most, raw.first), up = clamped(raw.second, least, most);
      const Block<L> s = rounded_to(sigmoid(rounded_to(gate * steepness, T{})), T{});
      store_block<L>(to + i, rounded_to(up + one, T{}) * rounded_to(gate * s, T{}), width - i);
    }
  }
}

template <int L, typename T>
MORAINE_INLINE void clamped_swiglu_backward_of(const Matrix& dy, const Matrix& gate_up, int64_t rows, int64_t width,
                                               float limit, const MutableMatrix& d_gate_up) {
  const Block<L> most = all<L>(limit), least = all<L>(-limit), no_least = all<L>(-INFINITY), one = all<L>(1),
                 steepness = all<L>(kSteepness);
  for (int64_t row = 0; row < rows; ++row) {
    const T *g = row_of<T>(dy, row), *pairs = row_of<T>(gate_up, row);
    T* to = row_of<T>(d_gate_up, row);
    for (int64_t i = 0; i < width; i += kBlock) {
      const int64_t n = width - i;
      const Pairs<L> raw = load_pairs<L>(pairs + 2 * i, n);
      const Block<L> gate = smaller(most, raw.first), up = clamped(raw.second, least, most),
                     d = load_block<L>(g + i, n);
      const Block<L> s = rounded_to(sigmoid(rounded_to(gate * steepness, T{})), T{});
      const Block<L> slope = s * fused(steepness * gate, one - s, one);
      const Block<L> d_gate = rounded_to(d * (up + one), T{}) * slope * within(raw.first, no_least, most);
      const Block<L> d_up = d * rounded_to(gate * s, T{}) * within(raw.second, least, most);
      store_pairs<L>(to + 2 * i, Pairs<L>{d_gate, d_up}, n);
    }
  }
}

template <int L, typename T>
MORAINE_INLINE void sum_rows_of(const Matrix& x, const int64_t* of_row, const float* weights, int64_t per_row,
                                int64_t rows, int64_t width, const MutableMatrix& out) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t* from = of_row + row * per_row;
    T* to = row_of<T>(out, row);
    for (int64_t i = 0; i < width; i += kBlock) {
      Block<L> total = all<L>(0);
      for (int64_t j = 0; j < per_row; ++j) {
        const Block<L> v = load_block<L>(row_of<T>(x, from[j]) + i, width - i);
        total = weights ? fused(v, all<L>(weights[row * per_row + j]), total) : total + v;
      }
      store_block<L>(to + i, total, width - i);
    }
  }
}

template <int L, typename T>
MORAINE_INLINE void scale_rows_and_dot_of(const Matrix& x, const int64_t* of_row, const float* weights, const Matrix& y,
                                          int64_t rows, int64_t width, const MutableMatrix& out, float* dots) {
  for (int64_t row = 0; row < rows; ++row) {
    const T *from = row_of<T>(x, of_row[row]), *other = row_of<T>(y, row);
    T* to = row_of<T>(out, row);
    const Block<L> factor = all<L>(weights[row]);
    Block<L> products = all<L>(0);
    for (int64_t i = 0; i < width; i += kBlock) {
      const Block<L> v = load_block<L>(from + i, width - i);
      products = fused(v, load_block<L>(other + i, width - i), products);
      store_block<L>(to + i, v * factor, width - i);
    }
    dots[row] = sum(products);
  }
}

template <int L, typename T>
MORAINE_INLINE void rope_of(const Matrix& x, int64_t head_stride, const Matrix& cos, const Matrix& sin, int64_t rows,
                            int64_t heads, int64_t width, int64_t turned, bool backward, const MutableMatrix& out) {
  const int64_t half = turned / 2;
  for (int64_t row = 0; row < rows; ++row) {
    const T *c = row_of<T>(cos, row), *s = row_of<T>(sin, row);
    for (int64_t head = 0; head < heads; ++head) {
      const T* from = row_of<T>(x, row) + head * head_stride;
      T* to = row_of<T>(out, row) + head * width;
      for (int64_t i = 0; i < half; i += kBlock) {
        const int64_t n = half - i;
        const Block<L> a = load_block<L>(from + i, n), b = load_block<L>(from + half + i, n);
        const Block<L> ca = load_block<L>(c + i, n), cb = load_block<L>(c + half + i, n);
        Block<L> sa = load_block<L>(s + i, n), sb = load_block<L>(s + half + i, n);
        // Each product is rounded, as by an operator of its own.
        const auto r = [](const Block<L>& v) __attribute__((always_inline)) { return rounded_to(v, T{}); };
        if (backward) {  // y₁ = a·c₁ - b·s₁, y₂ = b·c₂ + a·s₂
          store_block<L>(to + i, r(a * ca) + r(b * sb), n);
          store_block<L>(to + half + i, r(b * cb) - r(a * sa), n);
        } else {
          store_block<L>(to + i, r(a * ca) - r(b * sa), n);
          store_block<L>(to + half + i, r(b * cb) + r(a * sb), n);
        }
      }
      std::copy(from + turned, from + width, to + turned);
    }
  }
}

// Elements whose exponentials are summed in fp32 before their sum is added to one in fp64.
constexpr int64_t kSummedInFp32 = 1024;

template <int L, typename T>
MORAINE_INLINE void cross_entropy_of(const MutableMatrix& logits, const int64_t* targets, int64_t rows,
                                     int64_t vocabulary, const float* scale, float* losses) {
  for (int64_t row = 0; row < rows; ++row) {
    T* x = row_of<T>(logits, row);
    Block<L> most = all<L>(-INFINITY);
    for (int64_t i = 0; i < vocabulary; i += kBlock)
      most = larger(load_block<L>(x + i, vocabulary - i, -INFINITY), most);
    const float maximum = largest(most);
    const Block<L> shift = all<L>(maximum);
    double total = 0;
    for (int64_t begin = 0; begin < vocabulary; begin += kSummedInFp32) {
      const int64_t end = std::min(vocabulary, begin + kSummedInFp32);
      Block<L> part = all<L>(0);
      for (int64_t i = begin; i < end; i += kBlock)
        part = part + exponential<L>(load_block<L>(x + i, end - i, -INFINITY) - shift);
      total += sum(part);
    }
    const auto log_sum = static_cast<float>(maximum + std::log(total));
    losses[row] = log_sum - to_float(x[targets[row]]);
    if (!scale) continue;
    const float at_target = to_float(x[targets[row]]);
    const Block<L> by = all<L>(*scale), minus = all<L>(log_sum);
    for (int64_t i = 0; i < vocabulary; i += kBlock)
      store_block<L>(x + i, exponential<L>(load_block<L>(x + i, vocabulary - i) - minus) * by, vocabulary - i);
    from_float((std::exp(at_target - log_sum) - 1.0F) * *scale, x + targets[row]);
  }
}

template <int L>
MORAINE_INLINE void adamw_for(const AdamWStep& step, int64_t n, const double* grads, float* values, float* exp_avg,
                              float* exp_avg_sq) {
  const auto decay = static_cast<float>(1.0 - step.learning_rate * step.weight_decay);
  const auto beta1_rest = static_cast<float>(1.0 - step.beta1), beta2 = static_cast<float>(step.beta2),
             beta2_rest = static_cast<float>(1.0 - step.beta2), eps = static_cast<float>(step.eps),
             by_correction2 = static_cast<float>(1.0 / step.correction2_sqrt),
             step_size = static_cast<float>(step.learning_rate / step.correction1);
  for (int64_t i = 0; i < n; ++i) {
    const auto grad = static_cast<float>(grads[i] * step.grad_scale);
    const float mean = exp_avg[i] + beta1_rest * (grad - exp_avg[i]);
    const float square = exp_avg_sq[i] * beta2 + beta2_rest * grad * grad;
    exp_avg[i] = mean;
    exp_avg_sq[i] = square;
    values[i] = values[i] * decay - step_size * (mean / (std::sqrt(square) * by_correction2 + eps));
  }
}

#define MORAINE_BY_NUMBER(name, number, arguments) \
  if ((number) == Number::kBF16)                   \
    name##_of<L, BFloat16> arguments;              \
  else                                             \
    name##_of<L, float> arguments

template <int L>
MORAINE_INLINE void rms_norm_for(const Matrix& x, int64_t rows, int64_t width, float eps, const RmsNormWeight& weight,
                                 const MutableMatrix& out, float* rstd) {
  MORAINE_BY_NUMBER(rms_norm, x.number, (x, rows, width, eps, weight, out, rstd));
}
template <int L>
MORAINE_INLINE void rms_norm_backward_for(const Matrix& dy, const Matrix& x, int64_t rows, int64_t width,
                                          const float* weight, const float* rstd, const MutableMatrix& dx) {
  MORAINE_BY_NUMBER(rms_norm_backward, x.number, (dy, x, rows, width, weight, rstd, dx));
}
template <int L>
MORAINE_INLINE void swiglu_for(const Matrix& gate_up, int64_t rows, int64_t width, float limit,
                               const MutableMatrix& out) {
  MORAINE_BY_NUMBER(swiglu, gate_up.number, (gate_up, rows, width, limit, out));
}
template <int L>
MORAINE_INLINE void swiglu_backward_for(const Matrix& dy, const Matrix& gate_up, int64_t rows, int64_t width,
                                        float limit, const MutableMatrix& d_gate_up) {
  MORAINE_BY_NUMBER(swiglu_backward, gate_up.number, (dy, gate_up, rows, width, limit, d_gate_up));
}
template <int L>
MORAINE_INLINE void clamped_swiglu_for(const Matrix& gate_up, int64_t rows, int64_t width, float limit,
                                       const MutableMatrix& out) {
  MORAINE_BY_NUMBER(clamped_swiglu, gate_up.number, (gate_up, rows, width, limit, out));
}
template <int L>
MORAINE_INLINE void clamped_swiglu_backward_for(const Matrix& dy, const Matrix& gate_up, int64_t rows, int64_t width,
                                                float limit, const MutableMatrix& d_gate_up) {
  MORAINE_BY_NUMBER(clamped_swiglu_backward, gate_up.number, (dy, gate_up, rows, width, limit, d_gate_up));
}
template <int L>
MORAINE_INLINE void sum_rows_for(const Matrix& x, const int64_t* of_row, const float* weights, int64_t per_row,
                                 int64_t rows, int64_t width, const MutableMatrix& out) {
  MORAINE_BY_NUMBER(sum_rows, x.number, (x, of_row, weights, per_row, rows, width, out));
}
template <int L>
MORAINE_INLINE void scale_rows_and_dot_for(const Matrix& x, const int64_t* of_row, const float* weights,
                                           const Matrix& y, int64_t rows, int64_t width, const MutableMatrix& out,
                                           float* dots) {
  MORAINE_BY_NUMBER(scale_rows_and_dot, x.number, (x, of_row, weights, y, rows, width, out, dots));
}
template <int L>
MORAINE_INLINE void rope_for(const Matrix& x, int64_t head_stride, const Matrix& cos, const Matrix& sin, int64_t rows,
                             int64_t heads, int64_t width, int64_t turned, bool backward, const MutableMatrix& out) {
  MORAINE_BY_NUMBER(rope, x.number, (x, head_stride, cos, sin, rows, heads, width, turned, backward, out));
}
template <int L>
MORAINE_INLINE void cross_entropy_for(const MutableMatrix& logits, const int64_t* targets, int64_t rows,
                                      int64_t vocabulary, const float* scale, float* losses) {
  MORAINE_BY_NUMBER(cross_entropy, logits.number, (logits, targets, rows, vocabulary, scale, losses));
}

}  // namespace

MORAINE_FOR_EACH_ISA(rms_norm,
                     (const Matrix& x, int64_t rows, int64_t width, float eps, const RmsNormWeight& weight,
                      const MutableMatrix& out, float* rstd),
                     (x, rows, width, eps, weight, out, rstd))
MORAINE_FOR_EACH_ISA(rms_norm_backward,
                     (const Matrix& dy, const Matrix& x, int64_t rows, int64_t width, const float* weight,
                      const float* rstd, const MutableMatrix& dx),
                     (dy, x, rows, width, weight, rstd, dx))
MORAINE_FOR_EACH_ISA(swiglu,
                     (const Matrix& gate_up, int64_t rows, int64_t width, float limit, const MutableMatrix& out),
                     (gate_up, rows, width, limit, out))
MORAINE_FOR_EACH_ISA(swiglu_backward,
                     (const Matrix& dy, const Matrix& gate_up, int64_t rows, int64_t width, float limit,
                      const MutableMatrix& d_gate_up),
                     (dy, gate_up, rows, width, limit, d_gate_up))
MORAINE_FOR_EACH_ISA(clamped_swiglu,
                     (const Matrix& gate_up, int64_t rows, int64_t width, float limit, const MutableMatrix& out),
                     (gate_up, rows, width, limit, out))
MORAINE_FOR_EACH_ISA(clamped_swiglu_backward,
                     (const Matrix& dy, const Matrix& gate_up, int64_t rows, int64_t width, float limit,
                      const MutableMatrix& d_gate_up),
                     (dy, gate_up, rows, width, limit, d_gate_up))
MORAINE_FOR_EACH_ISA(sum_rows,
                     (const Matrix& x, const int64_t* of_row, const float* weights, int64_t per_row, int64_t rows,
                      int64_t width, const MutableMatrix& out),
                     (x, of_row, weights, per_row, rows, width, out))
MORAINE_FOR_EACH_ISA(scale_rows_and_dot,
                     (const Matrix& x, const int64_t* of_row, const float* weights, const Matrix& y, int64_t rows,
                      int64_t width, const MutableMatrix& out, float* dots),
                     (x, of_row, weights, y, rows, width, out, dots))
MORAINE_FOR_EACH_ISA(rope,
                     (const Matrix& x, int64_t head_stride, const Matrix& cos, const Matrix& sin, int64_t rows,
                      int64_t heads, int64_t width, int64_t turned, bool backward, const MutableMatrix& out),
                     (x, head_stride, cos, sin, rows, heads, width, turned, backward, out))
MORAINE_FOR_EACH_ISA(cross_entropy,
                     (const MutableMatrix& logits, const int64_t* targets, int64_t rows, int64_t vocabulary,
                      const float* scale, float* losses),
                     (logits, targets, rows, vocabulary, scale, losses))
MORAINE_FOR_EACH_ISA(adamw,
                     (const AdamWStep& step, int64_t n, const double* grads, float* values, float* exp_avg,
                      float* exp_avg_sq),
                     (step, n, grads, values, exp_avg, exp_avg_sq))

}  // namespace moraine::kernels
