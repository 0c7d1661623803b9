// What a layer does with activations besides products, each in one pass over them, on the CPU. Rows are independent and
// every sum has a fixed order: a row's bits depend neither on the others nor on the width of the processor's registers.
// Arithmetic is in fp32; where transformers rounds to the activations' dtype in between, so does this.
//
// All functions are single-threaded: callers share rows out.
#pragma once

#include <cstdint>

#include "kernels/matrix.h"

namespace moraine::kernels {

// out = x / sqrt(mean(x²) + eps) · weight (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467). rstd [rows] gets
// the factor of each row. x and out have the same number.
struct RmsNormWeight {
  const float* values = nullptr;  // [width]
  bool rounds_before = true;      // the normed row is rounded before it is multiplied
};
void rms_norm(const Matrix& x, int64_t rows, int64_t width, float eps, const RmsNormWeight& weight,
              const MutableMatrix& out, float* rstd);
// dx from dy. All three have the same number.
void rms_norm_backward(const Matrix& dy, const Matrix& x, int64_t rows, int64_t width, const float* weight,
                       const float* rstd, const MutableMatrix& dx);

// out [width] = silu(gate) · up of each row of gate_up [2 · width], gate first; gate is at most `limit`, up between
// -limit and limit. (Shazeer 2020, https://arxiv.org/abs/2002.05202)
void swiglu(const Matrix& gate_up, int64_t rows, int64_t width, float limit, const MutableMatrix& out);
// d_gate_up from dy [width]; nothing comes through what was clamped.
void swiglu_backward(const Matrix& dy, const Matrix& gate_up, int64_t rows, int64_t width, float limit,
                     const MutableMatrix& d_gate_up);

// The same of gate_up rows that hold gate and up of each place side by side, and (up + 1) · gate·sigmoid(1.702·gate):
// gpt-oss's.
void clamped_swiglu(const Matrix& gate_up, int64_t rows, int64_t width, float limit, const MutableMatrix& out);
void clamped_swiglu_backward(const Matrix& dy, const Matrix& gate_up, int64_t rows, int64_t width, float limit,
                             const MutableMatrix& d_gate_up);

// out[row] = Σⱼ weights[row, j] · x[of_row[row, j]] in rising order of j; `weights` fp32 or null = ones.
void sum_rows(const Matrix& x, const int64_t* of_row, const float* weights, int64_t per_row, int64_t rows,
              int64_t width, const MutableMatrix& out);
// out[row] = weights[row] · x[of_row[row]], and dots[row] = x[of_row[row]] · y[row] in fp32.
void scale_rows_and_dot(const Matrix& x, const int64_t* of_row, const float* weights, const Matrix& y, int64_t rows,
                        int64_t width, const MutableMatrix& out, float* dots);

// Turns the first `turned` elements of each of the `heads` vectors of a row, pairs of i and i + turned / 2, by the
// angles whose cosines and sines [turned] the row has (Su et al. 2021, https://arxiv.org/abs/2104.09864; the halves as
// transformers has them); copies the rest of `width`. x's heads lie head_stride apart, out's width. `backward`: by the
// angles' negatives.
void rope(const Matrix& x, int64_t head_stride, const Matrix& cos, const Matrix& sin, int64_t rows, int64_t heads,
          int64_t width, int64_t turned, bool backward, const MutableMatrix& out);

// Cross-entropy of each row of logits [rows, vocabulary] and target: losses[row] = log Σ exp(logits) - logits[target].
// With `scale` not null the logits become scale · (softmax - one at the target).
void cross_entropy(const MutableMatrix& logits, const int64_t* targets, int64_t rows, int64_t vocabulary,
                   const float* scale, float* losses);

// One step of AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101) on n elements, with the gradient
// multiplied by grad_scale first, as torch.optim.AdamW computes it.
struct AdamWStep {
  double learning_rate, weight_decay, beta1, beta2, eps;
  double correction1, correction2_sqrt;  // 1 - beta1^t, sqrt(1 - beta2^t)
  double grad_scale;
};
void adamw(const AdamWStep& step, int64_t n, const double* grads, float* values, float* exp_avg, float* exp_avg_sq);

}  // namespace moraine::kernels
