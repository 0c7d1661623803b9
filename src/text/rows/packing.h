// Packing: several short sequences share a row of a batch. They stay apart: attention and positions are each one's own,
// so a packed row trains exactly what its sequences would train one by one.
#pragma once

#include <cstdint>
#include <vector>

#include "text/rows/dataset.h"

namespace moraine {

// Rows as lists of sample numbers, each sample in one row, no row longer than `max_length` tokens unless it is a single
// sample. Best fit, longest first: rarely more rows than 11/9 of the fewest possible (Johnson et al. 1974). Within a
// row samples keep their order, and rows are in the order of their first samples. The same on every rank.
std::vector<std::vector<int64_t>> pack_samples(const std::vector<Sample>& samples, int64_t max_length);

// A row a sample.
std::vector<std::vector<int64_t>> one_sample_a_row(const std::vector<Sample>& samples);

}  // namespace moraine
