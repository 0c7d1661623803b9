// A few threads working off a list of independent items.
#pragma once

#include <cstddef>
#include <functional>

namespace moraine {

// Calls work(i) for every i in [0, num_items), from `num_threads` threads (the caller is one of them), each item once,
// in rising order of start. After the first exception no further item starts; it is rethrown here.
void for_each_item(size_t num_items, int num_threads, const std::function<void(size_t)>& work);

}  // namespace moraine
