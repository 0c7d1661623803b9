#include "kernels/matmul.h"

#include <algorithm>
#include <vector>

#include "base/cpu_features.h"
#include "kernels/simd.h"

namespace moraine::kernels {
namespace {

// Summands whose weights are in the cache at a time: with the tile's columns 128 KiB of fp32.
constexpr int64_t kSummandsAtOnce = 1024;

// Where a stretch of summands is: in the packed rows and in the packed weights.
struct Stretch {
  const float* rows;     // of the first row tile
  int64_t tile_size;     // floats between row tiles
  const float* weights;  // [count, kColumnTile]
  int64_t count;
  bool rounds_before;  // the sums until then, to bf16
};

// sums [MR, kColumnTile] of MR rows and NV registers of columns; `fresh`: they begin at zero.
template <int Lanes, int MR, int NV>
MORAINE_INLINE void add_tile(const Stretch* stretches, size_t num_stretches, int64_t row_tile, int64_t first_row,
                             int64_t first_column, float* sums, bool fresh) {
  using Float = typename Vectors<Lanes>::Float;
  Float sum[MR][NV];
  float* at = sums + first_row * kColumnTile + first_column;
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[m][v] = fresh ? Float{} : load<Float>(at + m * kColumnTile + v * Lanes);
  }
  for (size_t s = 0; s < num_stretches; ++s) {
    if (stretches[s].rounds_before) {
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[m][v] = rounded_to_bf16<Lanes>(sum[m][v]);
      }
    }
    const float* x = stretches[s].rows + row_tile * stretches[s].tile_size + first_row;
    const float* w = stretches[s].weights + first_column;
    for (int64_t k = 0; k < stretches[s].count; ++k, x += kRowTile, w += kColumnTile) {
      Float weight[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) weight[v] = load<Float>(w + v * Lanes);
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[m][v] += x[m] * weight[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) store(at + m * kColumnTile + v * Lanes, sum[m][v]);
  }
}

// 8 rows of 8 words become 8 columns.
typedef uint32_t Words __attribute__((vector_size(32)));
MORAINE_INLINE void transpose(Words* r) {
  Words t[8], u[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 4) {
    u[i] = __builtin_shufflevector(t[i], t[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    u[i + 1] = __builtin_shufflevector(t[i], t[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    u[i + 2] = __builtin_shufflevector(t[i + 1], t[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    u[i + 3] = __builtin_shufflevector(t[i + 1], t[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = __builtin_shufflevector(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    r[i + 4] = __builtin_shufflevector(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// to[k · stride + n] = from[n · row_stride + k] for 8 rows n and `count` columns k.
MORAINE_INLINE void transpose_rows(const float* from, int64_t row_stride, int64_t count, float* to, int64_t stride) {
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    Words r[8];
#pragma GCC unroll 8
    for (int n = 0; n < 8; ++n) r[n] = load<Words>(from + n * row_stride + k);
    transpose(r);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) store(to + (k + i) * stride, r[i]);
  }
  for (; k < count; ++k)
    for (int64_t n = 0; n < 8; ++n) to[k * stride + n] = from[n * row_stride + k];
}
MORAINE_INLINE void transpose_rows(const BFloat16* from, int64_t row_stride, int64_t count, float* to, int64_t stride) {
  int64_t k = 0;
  for (; k + 16 <= count; k += 16) {  // words of two numbers
    Words r[8];
#pragma GCC unroll 8
    for (int n = 0; n < 8; ++n) r[n] = load<Words>(from + n * row_stride + k);
    transpose(r);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const Words first = std::endian::native == std::endian::little ? r[i] << 16 : r[i] & 0xffff0000u;
      const Words second = std::endian::native == std::endian::little ? r[i] & 0xffff0000u : r[i] << 16;
      store(to + (k + 2 * i) * stride, first);
      store(to + (k + 2 * i + 1) * stride, second);
    }
  }
  for (; k < count; ++k)
    for (int64_t n = 0; n < 8; ++n) to[k * stride + n] = to_float(from[n * row_stride + k]);
}

// One tile of columns of w, summands first .. first + count, as [count, kColumnTile]; columns from `columns` on are
// zero.
template <int Lanes, typename T>
MORAINE_INLINE void pack_weights(const T* w, int64_t row_stride, bool rows_are_columns, int64_t count, int64_t columns,
                                 float* packed) {
  if (columns < kColumnTile) std::fill_n(packed, count * kColumnTile, 0.0F);
  if (rows_are_columns) {
    int64_t n = 0;
    for (; n + 8 <= columns; n += 8) transpose_rows(w + n * row_stride, row_stride, count, packed + n, kColumnTile);
    for (; n < columns; ++n)
      for (int64_t k = 0; k < count; ++k) packed[k * kColumnTile + n] = to_float(w[n * row_stride + k]);
    return;
  }
  for (int64_t k = 0; k < count; ++k) {
    int64_t n = 0;
    for (; n + Lanes <= columns; n += Lanes)
      store(packed + k * kColumnTile + n, load_floats<Lanes>(w + k * row_stride + n));
    for (; n < columns; ++n) packed[k * kColumnTile + n] = to_float(w[k * row_stride + n]);
  }
}

template <int Lanes, typename T>
MORAINE_INLINE void store_tile(const float* sums, int64_t rows, int64_t columns, T* out, int64_t row_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = sums + row * kColumnTile;
    T* to = out + row * row_stride;
    int64_t n = 0;
    for (; n + Lanes <= columns; n += Lanes) store_floats<Lanes>(to + n, load_floats<Lanes>(from + n));
    for (; n < columns; ++n) from_float(from[n], to + n);
  }
}

// The sums of one row tile.
template <int Lanes>
MORAINE_INLINE void add_row_tile(const Stretch* stretches, size_t num_stretches, int64_t tile, int64_t rows,
                                 int64_t columns, float* sums, bool fresh) {
  if constexpr (Lanes == 16) {  // of 32 registers 24 hold sums
    if (columns > 16) {
      if (rows > 6)
        add_tile<16, 12, 2>(stretches, num_stretches, tile, 0, 0, sums, fresh);
      else
        add_tile<16, 6, 2>(stretches, num_stretches, tile, 0, 0, sums, fresh);
    } else {
      add_tile<16, 12, 1>(stretches, num_stretches, tile, 0, 0, sums, fresh);
    }
  } else if constexpr (Lanes == 8) {  // of 16 registers 12
    for (int64_t row = 0; row < rows; row += 6)
      for (int64_t column = 0; column < columns; column += 16)
        add_tile<8, 6, 2>(stretches, num_stretches, tile, row, column, sums, fresh);
  } else {
    for (int64_t row = 0; row < rows; row += 4)
      for (int64_t column = 0; column < columns; column += 8)
        add_tile<4, 4, 2>(stretches, num_stretches, tile, row, column, sums, fresh);
  }
}

// Each thread's own, kept.
float* thread_buffer(int which, int64_t floats) {
  thread_local std::vector<float> buffers[2];
  std::vector<float>& buffer = buffers[which];
  if (static_cast<int64_t>(buffer.size()) < floats + 16) buffer.resize(floats + 16);
  auto address = reinterpret_cast<uintptr_t>(buffer.data());
  return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

template <int Lanes>
MORAINE_INLINE void multiply_for(std::span<const Term> terms, int64_t rows, int64_t columns, int64_t first_tile,
                                 int64_t end_tile, const MutableMatrix& out) {
  int64_t summands = 0;
  for (const Term& term : terms) summands += term.summands;
  const int64_t at_once = std::min(summands, kSummandsAtOnce);
  const bool whole = summands <= kSummandsAtOnce;
  float* weights = thread_buffer(0, at_once * kColumnTile);
  float* sums = thread_buffer(1, (whole ? 1 : row_tiles(rows)) * kRowTile * kColumnTile);
  std::vector<Stretch> stretches;
  for (int64_t column_tile = first_tile; column_tile < end_tile; ++column_tile) {
    const int64_t column = column_tile * kColumnTile, width = std::min(kColumnTile, columns - column);
    size_t term = 0;
    int64_t within = 0;  // summands of the term that are done
    for (int64_t done = 0; done < summands;) {
      const bool fresh = done == 0;
      stretches.clear();
      int64_t filled = 0;
      while (filled < at_once && term < terms.size()) {
        const Term& t = terms[term];
        const int64_t count = std::min(at_once - filled, t.summands - within);
        float* packed = weights + filled * kColumnTile;
        const Matrix w = t.rows_are_columns ? t.w.from(column, within) : t.w.from(within, column);
        if (w.number == Number::kBF16)
          pack_weights<Lanes>(static_cast<const BFloat16*>(w.data), w.row_stride, t.rows_are_columns, count, width,
                              packed);
        else
          pack_weights<Lanes>(static_cast<const float*>(w.data), w.row_stride, t.rows_are_columns, count, width,
                              packed);
        stretches.push_back({t.packed + within * kRowTile, t.summands * kRowTile, packed, count,
                             within == 0 && t.adds_to_rounded && out.number == Number::kBF16});
        filled += count;
        within += count;
        if (within == t.summands) ++term, within = 0;
      }
      done += filled;
      for (int64_t tile = 0; tile < row_tiles(rows); ++tile) {
        const int64_t first = tile * kRowTile, height = std::min(kRowTile, rows - first);
        float* tile_sums = sums + (whole ? 0 : tile * kRowTile * kColumnTile);
        add_row_tile<Lanes>(stretches.data(), stretches.size(), tile, height, width, tile_sums, fresh);
        if (done < summands) continue;
        const int64_t at = first * out.row_stride + column;
        if (out.number == Number::kBF16)
          store_tile<Lanes>(tile_sums, height, width, static_cast<BFloat16*>(out.data) + at, out.row_stride);
        else
          store_tile<Lanes>(tile_sums, height, width, static_cast<float*>(out.data) + at, out.row_stride);
      }
    }
  }
}

template <typename T>
MORAINE_INLINE void pack(const T* x, int64_t row_stride, int64_t rows, int64_t columns, float scale, float* packed) {
  for (int64_t row = 0; row < rows; row += kRowTile, packed += kRowTile * columns) {
    const int64_t height = std::min(kRowTile, rows - row);
    if (height < kRowTile) std::fill_n(packed, kRowTile * columns, 0.0F);
    int64_t m = 0;
    for (; m + 8 <= height; m += 8)
      transpose_rows(x + (row + m) * row_stride, row_stride, columns, packed + m, kRowTile);
    for (int64_t k = 0; k < columns; ++k)
      for (int64_t rest = m; rest < height; ++rest)
        packed[k * kRowTile + rest] = to_float(x[(row + rest) * row_stride + k]);
    if (scale != 1)
      for (int64_t i = 0; i < kRowTile * columns; ++i) packed[i] *= scale;
  }
}

template <int Lanes>
MORAINE_INLINE void pack_rows_for(const Matrix& x, int64_t rows, int64_t columns, float scale, float* packed) {
  if (x.number == Number::kBF16)
    pack(static_cast<const BFloat16*>(x.data), x.row_stride, rows, columns, scale, packed);
  else
    pack(static_cast<const float*>(x.data), x.row_stride, rows, columns, scale, packed);
}

}  // namespace

MORAINE_FOR_EACH_ISA(pack_rows, (const Matrix& x, int64_t rows, int64_t columns, float scale, float* packed),
                     (x, rows, columns, scale, packed))
MORAINE_FOR_EACH_ISA(multiply,
                     (std::span<const Term> terms, int64_t rows, int64_t columns, int64_t first_tile, int64_t end_tile,
                      const MutableMatrix& out),
                     (terms, rows, columns, first_tile, end_tile, out))

}  // namespace moraine::kernels
