// Factors that all experts share: one is read, and every bit of the others is compared.
#include "adapter/repeated_factors.h"

#include <gmock/gmock.h>

#include "base/temp_folder.h"
#include "checkpoint/tensor_file.h"
#include "golden.h"

namespace moraine {
namespace {

using testing::HasSubstr;

// Large enough for several pieces, of which the last is a short one.
constexpr int64_t kExperts = 6, kRank = 13, kWidth = 5003;

class RepeatedFactors : public testing::TestWithParam<c10::ScalarType> {
 protected:
  at::Tensor read(const at::Tensor& values, bool of_rows) {
    const std::filesystem::path file = folder_ / "adapter_model.safetensors";
    write_tensors(file, {{"before", at::zeros({3})}, {"shared", values}});
    const SafetensorsHeader header = read_safetensors_header(file);
    const auto read = of_rows ? read_repeated_rows : read_repeated_columns;
    return read(header, *header.find("shared"), kExperts);
  }
  // [R, I] repeated as lora_A is, or [O, R] as lora_B.
  static at::Tensor repeated(const at::Tensor& values, bool of_rows) {
    return of_rows ? values.repeat({kExperts, 1}) : values.repeat_interleave(kExperts, 1);
  }

  TempFolder folder_;
};

TEST_P(RepeatedFactors, AreReadOnceAndCompared) {
  for (const bool of_rows : {true, false}) {
    const at::Tensor one = at::randn(of_rows ? std::vector{kRank, kWidth} : std::vector{kWidth, kRank}).to(GetParam());
    one[0][0] = std::numeric_limits<float>::quiet_NaN();
    const at::Tensor all = repeated(one, of_rows), found = read(all, of_rows);
    EXPECT_EQ(found.scalar_type(), GetParam());
    EXPECT_EQ(found.sizes(), one.sizes());
    EXPECT_EQ(std::memcmp(found.const_data_ptr(), one.const_data_ptr(), one.nbytes()), 0);
    const int64_t last = all.numel() - 1, columns = all.size(1);
    // At both ends, in the middle, and each expert's last value.
    for (const int64_t place : {int64_t{1}, last / 2, last, last - kRank * columns, last - columns, last - 1}) {
      if (place < 0) continue;
      const at::Tensor spoilt = all.clone();
      spoilt.view(-1)[place] = 9;
      EXPECT_THAT(error_of([&] { read(spoilt, of_rows); }), HasSubstr("shared is not the same for all experts"))
          << place;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, RepeatedFactors, testing::Values(at::kFloat, at::kBFloat16, at::kHalf));

}  // namespace
}  // namespace moraine
