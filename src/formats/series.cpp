#include "formats/series.h"

#include <algorithm>
#include <cmath>

namespace moraine {

void Series::add(double x, double y) {
  if (!std::isfinite(y) || std::abs(y) > 1e100) {
    ++left_out_;
    return;
  }
  const SeriesPoint point{x, std::abs(y) < 1e-100 ? 0 : y};
  y = point.y;
  if (count_ == 0) first_ = lowest_ = highest_ = point;
  last_ = point;
  if (y < lowest_.y) lowest_ = point;
  if (y > highest_.y) highest_ = point;
  ++count_;

  if (buckets_.empty() || buckets_.back().count == width_) buckets_.push_back({0, x, x, 0, point, point});
  Bucket& bucket = buckets_.back();
  ++bucket.count;
  bucket.last_x = x;
  bucket.sum += y;
  if (y < bucket.lowest.y) bucket.lowest = point;
  if (y > bucket.highest.y) bucket.highest = point;
  while (num_points() > max_points_) halve();
}

void Series::halve() {
  const size_t half = (buckets_.size() + 1) / 2;
  for (size_t i = 0; i < half; ++i) {
    Bucket merged = buckets_[2 * i];
    if (2 * i + 1 < buckets_.size()) {
      const Bucket& next = buckets_[2 * i + 1];
      merged.count += next.count;
      merged.last_x = next.last_x;
      merged.sum += next.sum;
      if (next.lowest.y < merged.lowest.y) merged.lowest = next.lowest;
      if (next.highest.y > merged.highest.y) merged.highest = next.highest;
    }
    buckets_[i] = merged;
  }
  buckets_.resize(half);
  width_ *= 2;
}

std::vector<SeriesPoint> Series::points() const {
  std::vector<SeriesPoint> curve;
  const auto append = [&](const SeriesPoint& point) {
    if (curve.empty() || point.x > curve.back().x) curve.push_back(point);
  };
  if (count_ > 0) append(first_);
  for (const Bucket& bucket : buckets_) {
    const bool low_first = bucket.lowest.x <= bucket.highest.x;
    append(low_first ? bucket.lowest : bucket.highest);
    append(low_first ? bucket.highest : bucket.lowest);
  }
  if (count_ > 0) append(last_);
  return curve;
}

int64_t Series::window_buckets(double share) const {
  const auto wanted = static_cast<int64_t>(std::llround(share * static_cast<double>(buckets_.size())));
  return std::max<int64_t>(1, wanted);
}

std::vector<SeriesPoint> Series::running_mean(double share) const {
  const int64_t size = static_cast<int64_t>(buckets_.size()), window = window_buckets(share);
  std::vector<SeriesPoint> means;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t begin = std::max<int64_t>(0, i - (window - 1) / 2), end = std::min(size, i + window / 2 + 1);
    double sum = 0;
    int64_t count = 0;
    for (int64_t j = begin; j < end; ++j) {
      sum += buckets_[j].sum;
      count += buckets_[j].count;
    }
    means.push_back({(buckets_[i].first_x + buckets_[i].last_x) / 2, sum / static_cast<double>(count)});
  }
  return means;
}

namespace {

const double kLogBase = std::log(1.002);  // a bucket's middle is within 0.1 % of what is in it

}  // namespace

void Quantiles::add(double value) {
  if (!(value > 0) || !std::isfinite(value)) return;
  const double bounded = std::clamp(value, 1e-9, 1e9);
  ++counts_[static_cast<int>(std::floor(std::log(bounded) / kLogBase))];
  lowest_ = count_ == 0 ? value : std::min(lowest_, value);
  highest_ = count_ == 0 ? value : std::max(highest_, value);
  ++count_;
}

double Quantiles::at(double q) const {
  const auto wanted = static_cast<int64_t>(std::ceil(q * static_cast<double>(count_)));
  int64_t seen = 0;
  for (const auto& [logarithm, count] : counts_) {
    seen += count;
    if (seen >= wanted) return std::clamp(std::exp((logarithm + 0.5) * kLogBase), lowest_, highest_);
  }
  return highest_;
}

}  // namespace moraine
