// Figures over a run of any length in bounded memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace moraine {

struct SeriesPoint {
  double x = 0, y = 0;
};

// y over rising x. What is added is kept as it is until there are `max_points`; from then on neighbours share buckets,
// of which the lowest and the highest point stay, so that no spike is lost.
class Series {
 public:
  explicit Series(size_t max_points = 1000) : max_points_(max_points) {}

  // Where y is no number, or too large to draw (beyond ±1e100), the point is counted as left out.
  void add(double x, double y);

  int64_t count() const { return count_; }
  int64_t left_out() const { return left_out_; }
  // Of all that was added. Only where count() > 0.
  SeriesPoint first() const { return first_; }
  SeriesPoint last() const { return last_; }
  SeriesPoint lowest() const { return lowest_; }    // the first of equals
  SeriesPoint highest() const { return highest_; }  // the first of equals

  // The curve, at most max_points and its two ends.
  std::vector<SeriesPoint> points() const;
  // The mean of about `share` of all points around each place; at the ends, of those that there are.
  std::vector<SeriesPoint> running_mean(double share) const;
  // How many points those means are of. 1: they are the points themselves.
  int64_t mean_window(double share) const { return window_buckets(share) * width_; }

 private:
  struct Bucket {
    int64_t count = 0;
    double first_x = 0, last_x = 0, sum = 0;
    SeriesPoint lowest, highest;
  };
  size_t num_points() const { return width_ == 1 ? buckets_.size() : 2 * buckets_.size(); }
  int64_t window_buckets(double share) const;
  void halve();

  size_t max_points_;
  int64_t width_ = 1;  // points a bucket; the last may have fewer
  std::vector<Bucket> buckets_;
  int64_t count_ = 0, left_out_ = 0;
  SeriesPoint first_, last_, lowest_, highest_;
};

// Order statistics of positive figures within 0.1 %, for figures from 1e-9 to 1e9.
class Quantiles {
 public:
  void add(double value);
  int64_t count() const { return count_; }
  // The smallest value that a share `q` of all does not exceed. Only where count() > 0.
  double at(double q) const;

 private:
  std::map<int, int64_t> counts_;  // by logarithm
  int64_t count_ = 0;
  double lowest_ = 0, highest_ = 0;
};

}  // namespace moraine
