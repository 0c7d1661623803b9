// Reads the reference data of tests/golden.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "checkpoint/tensor_file.h"
#include "families.h"
#include "text/rows/dataset.h"

namespace moraine {

inline std::filesystem::path golden_folder(const std::string& name) {
  return testing_support::tests_folder() / "golden" / name;
}

inline at::Tensor golden_tensor(const std::filesystem::path& file, const std::string& name) {
  const SafetensorsHeader header = read_safetensors_header(file);
  const SafetensorsEntry* entry = header.find(name);
  if (!entry) throw std::runtime_error(file.string() + " has no " + name);
  return read_tensor(header, *entry);
}

// Rows of a golden batch whose tensors are called prefix + "input_ids" and so on, as samples: masked positions left
// out.
inline TokensFile golden_batch(const std::filesystem::path& file, const std::string& prefix = "") {
  const at::Tensor ids = golden_tensor(file, prefix + "input_ids"),
                   mask = golden_tensor(file, prefix + "attention_mask"),
                   labels = golden_tensor(file, prefix + "labels");
  TokensFile batch{ids.size(0), ids.size(1), {}};
  for (int64_t row = 0; row < batch.rows; ++row) {
    Sample sample;
    for (int64_t t = 0; t < batch.columns; ++t) {
      if (mask[row][t].item<int64_t>() == 0) continue;
      sample.input_ids.push_back(ids[row][t].item<int64_t>());
      sample.labels.push_back(labels[row][t].item<int64_t>());
      sample.position_ids.push_back(t);
    }
    batch.samples.push_back(std::move(sample));
  }
  return batch;
}

// max |a - b| / max |b|
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor found = a.cpu().to(at::kDouble), wanted = b.cpu().to(at::kDouble);
  return ((found - wanted).abs().max() / wanted.abs().max()).item<double>();
}

}  // namespace moraine
