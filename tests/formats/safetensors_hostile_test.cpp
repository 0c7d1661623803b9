// Crafted safetensors files: each must be refused with the error that says what is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <filesystem>
#include <fstream>

#include "base/temp_folder.h"
#include "formats/crafted.h"
#include "formats/safetensors.h"

namespace moraine {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class HostileSafetensors : public testing::Test {
 protected:
  // The error on reading a file of these bytes; it names the file.
  std::string error(const std::string& bytes) {
    std::filesystem::path path = folder_.write("x.safetensors", bytes);
    std::string line = error_of([&] { read_safetensors_header(path); });
    if (!line.empty()) EXPECT_THAT(line, StartsWith(path.string() + ": "));
    return line;
  }
  std::string header_error(const std::string& header, size_t data_bytes = 0) {
    return error(safetensors_file(header, data_bytes));
  }
  std::string entry_error(const std::string& dtype, const std::string& shape, uint64_t begin, uint64_t end,
                          size_t data_bytes) {
    return header_error("{" + header_entry("t", dtype, shape, begin, end) + "}", data_bytes);
  }

  TempFolder folder_;
};

TEST_F(HostileSafetensors, AcceptsTheUnusualThatIsRight) {
  EXPECT_EQ(header_error("{}"), "");
  EXPECT_EQ(header_error("{}   \n "), "");
  EXPECT_EQ(header_error("{\"__metadata__\":{}}"), "");
  EXPECT_EQ(entry_error("F32", "[]", 0, 4, 4), "");
  EXPECT_EQ(entry_error("F32", "[0]", 0, 0, 0), "");
  EXPECT_EQ(entry_error("F4", "[2,3]", 0, 3, 3), "");
  // Empty tensors share the offset of the one that begins there; the header's order is free.
  EXPECT_EQ(header_error("{" + header_entry("b", "U8", "[4]", 2, 6) + "," + header_entry("a", "U8", "[2]", 0, 2) + "," +
                             header_entry("e", "U8", "[0]", 2, 2) + "," + header_entry("f", "U8", "[3,0]", 6, 6) + "}",
                         6),
            "");
}

TEST_F(HostileSafetensors, EveryTruncationOfAFile) {
  std::string header = "{" + header_entry("a", "F32", "[2]", 0, 8) + "," + header_entry("b", "U8", "[3]", 8, 11) + "}";
  std::string whole = safetensors_file(header, 11);
  ASSERT_EQ(error(whole), "");
  for (size_t size = 0; size < whole.size(); ++size) {
    std::string line = error(whole.substr(0, size));
    if (size < 8) {
      EXPECT_THAT(line, HasSubstr("too few for a safetensors file")) << size;
    } else if (size < 8 + header.size()) {
      EXPECT_THAT(line, HasSubstr("but the file has " + std::to_string(size) + " bytes in all")) << size;
    } else {
      EXPECT_THAT(line, AllOf(HasSubstr("of the data, but the file holds"), HasSubstr("cut short"))) << size;
    }
  }
}

// The length is right for the text, but the text stops in the middle.
TEST_F(HostileSafetensors, EveryTruncationOfAHeader) {
  std::string header = "{" + header_entry("a", "F32", "[2]", 0, 8) + "}";
  for (size_t size = 1; size < header.size(); ++size) {
    EXPECT_THAT(header_error(header.substr(0, size), 8), HasSubstr("malformed JSON at line 1")) << size;
  }
}

TEST_F(HostileSafetensors, HeaderLengths) {
  std::string rest = "{}      ";
  EXPECT_THAT(error(length_bytes(0) + rest), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(error(length_bytes(0)), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(error(length_bytes(1) + rest), HasSubstr("malformed JSON"));
  EXPECT_THAT(error(length_bytes(7) + rest), HasSubstr("1 bytes follow the last tensor"));
  EXPECT_THAT(error(length_bytes(9) + rest), HasSubstr("the header claims 9 bytes, but the file has 16"));
  EXPECT_THAT(error(length_bytes(16) + rest), HasSubstr("the header claims 16 bytes, but the file has 16"));
  EXPECT_THAT(error(length_bytes(100'000'000) + rest), HasSubstr("but the file has 16"));
  for (uint64_t length : {uint64_t{100'000'001}, uint64_t{1} << 63, UINT64_MAX - 7, UINT64_MAX}) {
    EXPECT_THAT(error(length_bytes(length) + rest), HasSubstr("more than the limit of 100 MB"));
  }
}

// A sparse file that does hold the bytes: the limit itself must refuse it, before anything of that size is read.
TEST_F(HostileSafetensors, HeaderLongerThan100MB) {
  std::filesystem::path path = folder_.write("big", length_bytes(100'000'001) + "{");
  std::filesystem::resize_file(path, 200'000'000);
  EXPECT_THAT(error_of([&] { read_safetensors_header(path); }), HasSubstr("more than the limit of 100 MB"));
}

TEST_F(HostileSafetensors, HeaderText) {
  EXPECT_THAT(header_error("[]"), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(header_error(" {}"), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(header_error("\xef\xbb\xbf{}"), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(header_error("{\"\xff\":{}}"), HasSubstr("ill-formed UTF-8"));
  EXPECT_THAT(header_error("{\"__metadata__\":{\"a\":\"\xc3\"}}"), HasSubstr("ill-formed UTF-8"));
  EXPECT_THAT(header_error(std::string("{}\0\0", 4)), HasSubstr("a NUL byte"));
  EXPECT_THAT(header_error("{} {}"), HasSubstr("malformed JSON"));
  std::string deep = "{\"a\":{\"more\":";
  for (int i = 0; i < 1'000'000; ++i) deep += '[';
  EXPECT_THAT(header_error(deep), HasSubstr("nested deeper than 256 levels"));
}

TEST_F(HostileSafetensors, DuplicateKeys) {
  std::string a = header_entry("a", "U8", "[1]", 0, 1);
  EXPECT_THAT(header_error("{" + a + "," + a + "}", 1), HasSubstr("key 'a' is given twice"));
  EXPECT_THAT(header_error("{" + a + "," + header_entry("a", "U8", "[1]", 1, 2) + "}", 2),
              HasSubstr("key 'a' is given twice"));
  EXPECT_THAT(header_error(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("key 'dtype' is given twice"));
  EXPECT_THAT(header_error(R"({"__metadata__":{"k":"1","k":"2"}})"), HasSubstr("key 'k' is given twice"));
}

TEST_F(HostileSafetensors, Fields) {
  EXPECT_THAT(header_error(R"({"t":7})"), HasSubstr("tensor 't': not a JSON object"));
  EXPECT_THAT(header_error(R"({"t":{"shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("tensor 't': dtype is missing"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":"U8","data_offsets":[0,1]}})", 1),
              HasSubstr("tensor 't': shape is missing"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":"U8","shape":[1]}})", 1), HasSubstr("tensor 't': data_offsets is missing"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("dtype must be a string"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", 1),
              HasSubstr("shape must be a list"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1),
              HasSubstr("list of two numbers"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}})", 1),
              HasSubstr("list of two numbers"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":["0","1"]}})", 1),
              HasSubstr("data_offsets must hold whole numbers, not string"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}})", 1),
              HasSubstr("data_offsets holds a negative number"));
  EXPECT_THAT(header_error(R"({"__metadata__":[]})"), HasSubstr("__metadata__ is not a JSON object"));
  EXPECT_THAT(header_error(R"({"__metadata__":{"a":1}})"), HasSubstr("__metadata__ 'a': the value must be a string"));
  EXPECT_THAT(entry_error("F33", "[1]", 0, 4, 4), HasSubstr("tensor 't': unknown dtype 'F33'"));
  EXPECT_THAT(entry_error("", "[1]", 0, 4, 4), HasSubstr("unknown dtype ''"));
  EXPECT_THAT(header_error("{\"" + std::string(100'000, 'n') + "\":7}"), HasSubstr("not a JSON object"));
}

TEST_F(HostileSafetensors, Shapes) {
  EXPECT_THAT(entry_error("U8", "[-1]", 0, 1, 1), HasSubstr("shape holds a negative number"));
  EXPECT_THAT(entry_error("U8", "[1.0]", 0, 1, 1), HasSubstr("shape must hold whole numbers, not number"));
  EXPECT_THAT(entry_error("U8", "[true]", 0, 1, 1), HasSubstr("shape must hold whole numbers, not boolean"));
  EXPECT_THAT(entry_error("U8", "[null]", 0, 1, 1), HasSubstr("shape must hold whole numbers, not null"));
  EXPECT_THAT(entry_error("U8", "[0,9223372036854775808]", 0, 0, 0),
              HasSubstr("9223372036854775808, which is too large"));
  EXPECT_THAT(entry_error("U8", "[18446744073709551616]", 0, 0, 0), HasSubstr("not number"));  // past 64 bits
  // Products that wrap around: to 0, to the 8 bytes that are there, behind a 0.
  EXPECT_THAT(entry_error("U8", "[4294967296,4294967296]", 0, 0, 0), HasSubstr("overflows"));
  EXPECT_THAT(entry_error("F32", "[4611686018427387904]", 0, 0, 0), HasSubstr("overflows"));
  EXPECT_THAT(entry_error("F32", "[4611686018427387906]", 0, 8, 8), HasSubstr("overflows"));
  EXPECT_THAT(entry_error("U8", "[6148914691236517205,3,8]", 0, 8, 8), HasSubstr("overflows"));
  EXPECT_THAT(entry_error("U8", "[0,9223372036854775807,4]", 0, 0, 0), HasSubstr("overflows"));
  EXPECT_THAT(entry_error("U8", "[9223372036854775807,4,0]", 0, 0, 0), HasSubstr("overflows"));
  EXPECT_THAT(entry_error("F4", "[3]", 0, 2, 2), HasSubstr("no whole number of bytes"));
  EXPECT_THAT(entry_error("F4", "[3]", 0, 1, 1), HasSubstr("no whole number of bytes"));
  EXPECT_THAT(entry_error("F32", "[2]", 0, 4, 4),
              HasSubstr("shape [2] of F32 takes 8 bytes, but data_offsets [0, 4] hold 4"));
  EXPECT_THAT(entry_error("F32", "[]", 0, 0, 0), HasSubstr("takes 4 bytes"));
}

TEST_F(HostileSafetensors, Offsets) {
  EXPECT_THAT(entry_error("U8", "[2]", 2, 0, 2), HasSubstr("data_offsets [2, 0] end before they begin"));
  EXPECT_THAT(entry_error("U8", "[2]", 0, 2, 1),
              HasSubstr("tensor 't' ends at byte 2 of the data, but the file holds 1"));
  EXPECT_THAT(entry_error("U8", "[2]", 0, 2, 3), HasSubstr("1 bytes follow the last tensor"));
  EXPECT_THAT(entry_error("U8", "[2]", 1, 3, 3), HasSubstr("a hole of 1 bytes before tensor 't'"));
  EXPECT_THAT(entry_error("U8", "[1]", 9223372036854775806u, 9223372036854775807u, 1), HasSubstr("a hole of"));
  EXPECT_THAT(entry_error("U8", "[1]", UINT64_MAX - 1, UINT64_MAX, 1), HasSubstr("which is too large"));
  EXPECT_THAT(header_error("{}", 1), HasSubstr("1 bytes follow the last tensor"));
  auto two = [&](uint64_t begin, uint64_t end, size_t data_bytes) {
    return header_error("{" + header_entry("a", "U8", "[4]", 0, 4) + "," +
                            header_entry("b", "U8", "[" + std::to_string(end - begin) + "]", begin, end) + "}",
                        data_bytes);
  };
  EXPECT_EQ(two(4, 8, 8), "");
  EXPECT_THAT(two(3, 7, 7), HasSubstr("tensor 'b' overlaps tensor 'a'"));
  EXPECT_THAT(two(0, 4, 4), HasSubstr("tensor 'b' overlaps tensor 'a'"));
  EXPECT_THAT(two(1, 3, 4), HasSubstr("tensor 'b' overlaps tensor 'a'"));
  EXPECT_THAT(two(2, 2, 4), HasSubstr("tensor 'b' overlaps tensor 'a'"));  // empty, but inside of another
  EXPECT_THAT(two(5, 9, 9), HasSubstr("a hole of 1 bytes before tensor 'b'"));
  EXPECT_THAT(two(4, 8, 7), HasSubstr("tensor 'b' ends at byte 8"));
}

TEST_F(HostileSafetensors, MeansNothingHere) {
  EXPECT_EQ(
      header_error(
          R"({"t":{"dtype":"U8","more":{"shape":[[{"dtype":1}],null]},"shape":[1],"less":7,"data_offsets":[0,1]}})", 1),
      "");
  EXPECT_EQ(header_error(R"({"__metadata__":null})"), "");
  EXPECT_THAT(header_error(R"({"__metadata__":{"a":["b"]}})"),
              HasSubstr("__metadata__ 'a': the value must be a string"));
  EXPECT_THAT(header_error(R"({"__metadata__":{},"__metadata__":{}})"), HasSubstr("key '__metadata__' is given twice"));
  EXPECT_THAT(header_error(R"({"t":[]})"), HasSubstr("tensor 't': not a JSON object"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":["U8"],"shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("dtype must be a string"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1),
              HasSubstr("whole numbers, not array"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":"U8","shape":{},"data_offsets":[0,1]}})", 1),
              HasSubstr("shape must be a list"));
  EXPECT_THAT(header_error(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":{}}})", 1),
              HasSubstr("list of two numbers"));
}

// What a process takes at most while `action` runs, more than before.
template <typename Action>
uint64_t growth_of_memory(const Action& action) {
  const auto kibibytes_of = [](const std::string& key) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with(key)) return std::stoull(line.substr(key.size()));
    return 0ull;
  };
  std::ofstream("/proc/self/clear_refs") << "5";  // the highest so far is what is held now
  const uint64_t before = kibibytes_of("VmRSS:");
  action();
  return (kibibytes_of("VmHWM:") - before) << 10;
}

TEST_F(HostileSafetensors, MemoryIsBoundedByTheHeader) {
  const auto many = [](int count, const auto& item) {
    std::string text;
    for (int i = 0; i < count; ++i) text += (i ? "," : "") + item(i);
    return text;
  };
  const std::string big(18 << 20, 'x');
  const std::pair<std::string, const char*> headers[] = {
      {R"({"a":{"dtype":"U8","shape":[)" + many(4'000'000, [](int) { return std::string("1"); }) +
           R"(],"data_offsets":[0,1]}})",
       "more than 64 dimensions"},
      {R"({"a":{"dtype":"U8","data_offsets":[)" + many(4'000'000, [](int) { return std::string("1"); }) + "]}}",
       "list of two numbers"},
      {R"({"a":{)" + many(400'000, [](int i) { return fmt::format("\"k{}\":{{}}", i); }) + "}}", "more than 64 keys"},
      {R"({"__metadata__":{)" + many(500'000, [](int i) { return fmt::format("\"k{}\":\"v\"", i); }) + "}}",
       "more than 100000 entries"},
      {"{" + many(150'000, [](int i) { return header_entry(fmt::format("t{}", i), "U8", "[0]", 0, 0); }) + "}", ""},
      {R"({"__metadata__":{"k":")" + big + "\"}}", "more than 16 MiB"},
      {R"({")" + big, "more than 16 MiB"},
      {R"({"a":{"shape":[)" + std::string(18 << 20, '1') + "]}}", "more than 16 MiB"}};
  for (const auto& [header, problem] : headers) {
    const std::string bytes = safetensors_file(header, problem == std::string("more than 64 dimensions") ? 1 : 0);
    std::string line;
    const uint64_t growth = growth_of_memory([&] {
      line = error_of([&] { parse_safetensors_header(std::as_bytes(std::span(bytes)), bytes.size(), "x"); });
    });
    EXPECT_THAT(line, problem == std::string() ? testing::Matcher<std::string>("")
                                               : testing::Matcher<std::string>(HasSubstr(problem)));
    EXPECT_LT(growth, 3 * header.size() + (64 << 20)) << header.substr(0, 40);  // the header itself is the fourth
  }
}

TEST_F(HostileSafetensors, ParsesOnlyAWholeHeader) {
  std::string bytes = safetensors_file("{\"a\":{}}", 0).substr(0, 10);
  EXPECT_THAT(error_of([&] { parse_safetensors_header(std::as_bytes(std::span(bytes)), 16, "x"); }),
              HasSubstr("x: the header is cut short"));
}

}  // namespace
}  // namespace moraine
