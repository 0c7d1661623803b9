// Training rows as bytes, for ranks that cannot see the files.
#pragma once

#include <string>
#include <string_view>

#include "text/rows/dataset.h"

namespace moraine {

std::string dataset_to_bytes(const Dataset& data);
// `bytes` must come from dataset_to_bytes of the same program on a machine of the same byte order.
Dataset dataset_from_bytes(std::string_view bytes);

}  // namespace moraine
