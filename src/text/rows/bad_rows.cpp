#include "text/rows/bad_rows.h"

#include <fmt/format.h>

#include <filesystem>

namespace moraine {
namespace {

constexpr size_t kNamed = 10;
constexpr size_t kMaxBytes = 220;  // of one row's error, so that all fit into one

// The error without folders and hint, cut at a character's begin.
std::string in_short(const Error& error) {
  std::string text = std::filesystem::path(error.where).filename().string() + ": " + error.message;
  if (text.size() <= kMaxBytes) return text;
  size_t end = kMaxBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

}  // namespace

void BadRows::add(const Error& error) {
  if (error.kind != ErrorKind::kInput) throw error;
  ++count_;
  if (first_.size() < kNamed) first_.push_back(error);
}

std::string BadRows::in_words(int64_t rows) const {
  std::string text = fmt::format("{} bad row{} of {}", count_, count_ == 1 ? "" : "s", rows);
  for (size_t i = 0; i < first_.size(); ++i) text += (i == 0 ? ": " : "; ") + in_short(first_[i]);
  if (count_ > static_cast<int64_t>(first_.size()))
    text += fmt::format("; and {} more", count_ - static_cast<int64_t>(first_.size()));
  return text;
}

void BadRows::refuse(const std::string& file, int64_t rows, const std::string& way_out) const {
  if (count_ == 0) return;
  if (count_ == 1) throw first_.front();
  // What mends one of them mends all where they say the same.
  std::string mend = first_.front().hint;
  for (const Error& error : first_) {
    if (error.hint != mend) mend.clear();
  }
  if (mend.empty()) mend = "mend them";
  throw input_error(file, in_words(rows), way_out.empty() ? mend : mend + "; or " + way_out);
}

}  // namespace moraine
