#include "text/tokenizer/oniguruma_pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <optional>
#include <vector>

#include "text/tokenizer/at_place.h"
#include "text/tokenizer/unicode.h"

namespace moraine {
namespace {

constexpr std::string_view kWhiteSpace =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
constexpr std::string_view kNotWhiteSpace =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

constexpr std::string_view kCategories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",
                                            "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
                                            "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};

// Scripts with what Unicode 15 and 16 added to them.
struct Script {
  std::string_view name, additions;
};
constexpr Script kScripts[] = {{"Han", "\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"},
                               {"Hiragana", "\\x{1b132}"},
                               {"Katakana", "\\x{1b155}"},
                               {"Hangul", ""},
                               {"Thai", ""},
                               {"Greek", ""},
                               {"Hebrew", ""}};

std::string hex(char32_t c) { return fmt::format("\\x{{{:x}}}", static_cast<uint32_t>(c)); }

// The inside of a class: a general category with what Unicode 15 and 16 added to it.
std::string category(std::string_view name) {
  std::string out = fmt::format("\\p{{{}}}", name);
  for (const CodePointRange& range : code_points_since_unicode_15()) {
    if (range.major != name[0] || (name.size() == 2 && range.minor != name[1])) continue;
    out += hex(range.first);
    if (range.last != range.first) out += "-" + hex(range.last);
  }
  return out;
}

// A character or a set; `inside` is what stands for it in a class.
struct Item {
  std::optional<char32_t> character;
  std::string inside;
  bool negated = false;  // the set is the complement of `inside`
};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string translate() {
    if (in_.substr(0, 4) == "(?i)") groups_.back().caseless = true, out_ = "(?i)", at_ = 4;
    while (at_ < in_.size()) step();
    if (groups_.size() != 1) refuse("an unclosed group");
    return std::move(out_);
  }

 private:
  struct Group {
    size_t out_begin;
    bool caseless;
  };

  [[noreturn]] void refuse(const std::string& what) const {
    throw row_error(fmt::format("{} in the regex {}, which is not supported", what, in_));
  }
  bool next_is(std::string_view text) const { return in_.substr(at_, text.size()) == text; }
  bool take(std::string_view text) { return next_is(text) && (at_ += text.size(), true); }

  void step() {
    char c = in_[at_];
    if (c == '(') return open();
    if (c == ')') {
      if (groups_.size() == 1) refuse("a ')' without '('");
      ++at_, out_ += ')', last_character_ = 0;
      atom_ = groups_.back().out_begin;
      groups_.pop_back();
      return;
    }
    if (c == '|') {
      ++at_, out_ += '|', last_character_ = 0, atom_ = std::string::npos;
      return;
    }
    if (c == '*' || c == '+' || c == '?') return quantifier();
    if (c == '{' && interval()) return;
    if (c == '^' || c == '$') {  // Oniguruma's are those of lines
      ++at_, out_ += fmt::format("(?m:{})", c), atom_ = std::string::npos;
      return;
    }
    atom_ = out_.size();
    if (c == '.') {
      ++at_, out_ += "[^\\x{a}]", last_character_ = 0;
    } else if (c == '[') {
      ++at_, character_class(), last_character_ = 0;
    } else if (c == '\\' && (in_.substr(at_, 2) == "\\A" || in_.substr(at_, 2) == "\\z")) {
      out_ += in_.substr(at_, 2), at_ += 2;
    } else {
      put(item());
    }
  }

  void open() {
    size_t begin = out_.size();
    bool caseless = groups_.back().caseless;
    ++at_;
    if (take("?i:")) {
      out_ += "(?i:", caseless = true;
    } else if (take("?-i:")) {
      out_ += "(?-i:", caseless = false;
    } else if (next_is("?")) {
      size_t kind = 0;
      constexpr std::string_view kKinds[] = {"?:", "?=", "?!", "?<=", "?<!", "?>"};
      while (kind < std::size(kKinds) && !take(kKinds[kind])) ++kind;
      if (kind == std::size(kKinds)) refuse(fmt::format("a group \"({}\"", in_.substr(at_, 3)));
      out_ += '(', out_ += kKinds[kind];
    } else {
      out_ += "(?:";  // nothing reads captures
    }
    groups_.push_back({begin, caseless});
    atom_ = std::string::npos, last_character_ = 0;
  }

  void quantifier() {
    out_ += in_[at_++], last_character_ = 0;
    if (next_is("?") || next_is("+")) out_ += in_[at_++];
  }

  // {n}, {n,}, {,m} or {n,m}; anything else is a literal brace (false).
  bool interval() {
    size_t end = in_.find('}', at_);
    if (end == in_.npos) return false;
    std::string_view body = in_.substr(at_ + 1, end - at_ - 1);
    size_t commas = std::count(body.begin(), body.end(), ',');
    bool digits = std::all_of(body.begin(), body.end(), [](char c) { return (c >= '0' && c <= '9') || c == ','; });
    if (!digits || commas > 1 || body.size() == commas) return false;
    if (atom_ == std::string::npos) refuse("an interval without anything to repeat");
    at_ = end + 1, last_character_ = 0;
    out_ += fmt::format("{{{}{}}}", body[0] == ',' ? "0" : "", body);
    if (next_is("?")) {
      if (commas == 0) refuse("\"{n}?\"");
      out_ += '?', ++at_;
    } else if (next_is("+")) {  // greedy repetition of the interval, where PCRE2's {n,m}+ is possessive
      out_.insert(atom_, "(?:");
      out_ += ")+", ++at_;
    }
    return true;
  }

  void put(const Item& item) {
    if (!item.character) {
      out_ += fmt::format("[{}{}]", item.negated ? "^" : "", item.inside);
      last_character_ = 0;
      return;
    }
    char32_t c = *item.character;
    if (groups_.back().caseless) {
      // Oniguruma folds some letters to two ("ss" matches "ß"), PCRE2 does not.
      auto lower = [](char32_t x) { return x < 0x80 ? std::tolower(static_cast<int>(x)) : 0; };
      std::string pair{static_cast<char>(lower(last_character_)), static_cast<char>(lower(c))};
      if (c >= 0x80 || pair == "ss" || pair == "st" || pair == "ff" || pair == "fi" || pair == "fl") {
        refuse("case-insensitive text with letters that fold to several");
      }
    }
    out_ += c < 0x80 && std::isalnum(static_cast<int>(c)) ? std::string(1, static_cast<char>(c)) : hex(c);
    last_character_ = c;
  }

  char32_t hex_digits(size_t most) {
    char32_t value = 0;
    size_t count = 0;
    for (; count < most && at_ < in_.size() && std::isxdigit(static_cast<unsigned char>(in_[at_])); ++count, ++at_) {
      value = value * 16 + static_cast<char32_t>(std::stoi(std::string(1, in_[at_]), nullptr, 16));
    }
    if (count == 0 || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) refuse("a bad hexadecimal escape");
    return value;
  }

  std::string word_characters() const {
    // Outside classes Oniguruma goes by a table of Latin-1 in which ², ³, ¹ and ¼ to ¾ are word characters.
    return std::string(in_class_ ? "" : "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}") + "\\p{Alphabetic}" + category("L") +
           category("M") + category("Nd") + category("Pc");
  }

  // One character or escape at at_, inside or outside a class.
  Item item() {
    auto one = [](char32_t c) { return Item{c, hex(c), false}; };
    if (in_[at_] != '\\') return one(next_code_point(in_, at_));
    if (++at_ == in_.size()) refuse("a '\\' at the end");
    char32_t c = next_code_point(in_, at_);
    switch (c) {
      case 's':
        return {std::nullopt, std::string(kWhiteSpace), false};
      case 'S':
        return {std::nullopt, std::string(kNotWhiteSpace), false};
      case 'd':
      case 'D':
        return {std::nullopt, category("Nd"), c == 'D'};
      case 'w':
      case 'W':
        return {std::nullopt, word_characters(), c == 'W'};
      case 'p':
      case 'P':
        return property(c == 'P');
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 't':
        return one('\t');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 'a':
        return one('\a');
      case 'e':
        return one(0x1B);
      case 'x': {
        bool braces = take("{");
        char32_t value = hex_digits(braces ? 8 : 2);
        if (braces ? !take("}") : value >= 0x80) refuse("a hexadecimal escape of a byte");
        return one(value);
      }
      case 'u':
        return one(hex_digits(4));
      default:
        if (c >= 0x80 || std::isalnum(static_cast<int>(c))) {
          std::string escape = "\\";
          append_utf8(escape, c);
          refuse(escape);
        }
        return one(c);
    }
  }

  Item property(bool negated) {
    if (!take("{")) refuse("\\p without braces");
    if (take("^")) negated = !negated;
    size_t end = in_.find('}', at_);
    if (end == in_.npos) refuse("an unclosed \\p{");
    std::string_view name = in_.substr(at_, end - at_);
    at_ = end + 1;
    if (std::find(std::begin(kCategories), std::end(kCategories), name) != std::end(kCategories)) {
      return {std::nullopt, category(name), negated};
    }
    for (const Script& script : kScripts) {
      if (script.name == name) return {std::nullopt, fmt::format("\\p{{sc:{}}}{}", name, script.additions), negated};
    }
    refuse(fmt::format("\\p{{{}}}", name));
  }

  // Behind '['.
  void character_class() {
    out_ += '[';
    if (take("^")) out_ += '^';
    if (next_is("]")) refuse("an empty class");
    in_class_ = true;
    while (!take("]")) {
      if (at_ == in_.size()) refuse("an unclosed class");
      if (next_is("[")) refuse("a set within a set");
      if (next_is("&&")) refuse("an intersection of sets");
      Item first = item();
      if (first.negated) refuse("a complement within a set");
      out_ += first.inside;
      if (groups_.back().caseless && first.character && *first.character >= 0x80) {
        refuse("case-insensitive text with letters that fold to several");
      }
      // A hyphen is a range only between two characters.
      if (!first.character || !next_is("-") || in_.substr(at_ + 1, 1) == "]") continue;
      ++at_;
      if (at_ == in_.size() || next_is("[")) refuse("a bad range");
      Item last = item();
      if (!last.character || *last.character < *first.character) refuse("a bad range");
      out_ += "-" + last.inside;
    }
    in_class_ = false;
    out_ += ']';
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  bool in_class_ = false;
  std::vector<Group> groups_{{0, false}};
  size_t atom_ = std::string::npos;  // where in out_ the last repeatable item begins
  char32_t last_character_ = 0;      // the literal just before, 0 = none
};

}  // namespace

std::string pcre2_pattern(std::string_view pattern) { return Translator(pattern).translate(); }

}  // namespace moraine
