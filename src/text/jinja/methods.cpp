// Methods of Python's strings, lists and dicts.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <set>

#include "text/jinja/functions.h"
#include "text/jinja/python_text.h"
#include "text/tokenizer/unicode.h"

namespace moraine::jinja {
namespace {

using View = std::string_view;

const Value& need(const Arguments& args, size_t index, View name, View function) {
  const Value* value = args.find(index, name);
  if (value == nullptr) throw Failure(fmt::format("{} needs another argument", function));
  return *value;
}

const std::string& need_text(const Value& value, View function) {
  if (!value.is_string()) throw Failure(fmt::format("{} needs a str, not {}", function, type_name(value)));
  return value.text();
}

int64_t need_integer(const Value& value, View function) {
  if (!value.is_integer()) throw Failure(fmt::format("{} needs an int, not {}", function, type_name(value)));
  return value.integer();
}

bool is_among(View chars, char32_t c) {
  pay_characters(chars.size());
  for (size_t at = 0; at < chars.size();) {
    if (next_code_point(chars, at) == c) return true;
  }
  return false;
}

// strip, lstrip, rstrip. `chars` null: white space.
Value strip_chars(const Value& string, const std::string* chars, bool left, bool right) {
  const View text = string.text();
  const auto goes = [&](char32_t c) { return chars == nullptr ? is_python_space(c) : is_among(*chars, c); };
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!goes(next_code_point(text, next))) break;
    begin = next;
  }
  while (right && end > begin) {
    const size_t last = previous_code_point(text, end);
    size_t at = last;
    if (!goes(next_code_point(text, at))) break;
    end = last;
  }
  pay_characters(text.size() - (end - begin));
  return slice_of(string, begin, end);
}

const std::string* chars_of(const Arguments& args, View function) {
  const Value* chars = args.find(0, "chars");
  return chars == nullptr || chars->is(Kind::kNone) ? nullptr : &need_text(*chars, function);
}

std::vector<Value> split_white_space(const Value& string, int64_t most) {
  const View text = string.text();
  pay_characters(text.size());
  std::vector<Value> parts;
  size_t at = 0;
  while (true) {
    at = text.size() - strip_left(text.substr(at)).size();
    if (at >= text.size()) break;
    if (most >= 0 && static_cast<int64_t>(parts.size()) == most) {
      parts.push_back(slice_of(string, at, text.size()));
      break;
    }
    size_t end = at;
    while (end < text.size()) {
      size_t next = end;
      if (is_python_space(next_code_point(text, next))) break;
      end = next;
    }
    parts.push_back(slice_of(string, at, end));
    at = end;
  }
  return parts;
}

std::vector<Value> rsplit_white_space(const Value& string, int64_t most) {
  const View text = string.text();
  pay_characters(text.size());
  std::vector<Value> parts;
  size_t end = text.size();
  while (true) {
    end = strip_right(text.substr(0, end)).size();
    if (end == 0) break;
    if (most >= 0 && static_cast<int64_t>(parts.size()) == most) {
      parts.push_back(slice_of(string, 0, end));
      break;
    }
    size_t begin = end;
    while (begin > 0) {
      const size_t last = previous_code_point(text, begin);
      size_t at = last;
      if (is_python_space(next_code_point(text, at))) break;
      begin = last;
    }
    parts.push_back(slice_of(string, begin, end));
    end = begin;
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

Value split(const Value& string, const Arguments& args, bool from_right) {
  args.check("split", 2, {"sep", "maxsplit"});
  const Value* separator = args.find(0, "sep");
  const int64_t most = need_integer(args.get(1, "maxsplit", Value::integer(-1)), "split");
  if (separator == nullptr || separator->is(Kind::kNone))
    return Value::list(from_right ? rsplit_white_space(string, most) : split_white_space(string, most));
  const std::string &text = string.text(), &mark = need_text(*separator, "split");
  if (mark.empty()) throw Failure("split by an empty text");
  std::vector<Value> parts;
  if (!from_right) {
    size_t at = 0;
    for (size_t found;
         static_cast<int64_t>(parts.size()) != most && (found = find_text(text, mark, at)) != text.npos;) {
      pay_step();
      parts.push_back(slice_of(string, at, found));
      at = found + mark.size();
    }
    parts.push_back(slice_of(string, at, text.size()));
  } else {
    size_t end = text.size();
    while (static_cast<int64_t>(parts.size()) != most && end >= mark.size()) {
      const size_t found = find_last_text(View(text).substr(0, end), mark);
      if (found == text.npos) break;
      pay_step();
      parts.push_back(slice_of(string, found + mark.size(), end));
      end = found;
    }
    parts.push_back(slice_of(string, 0, end));
    std::reverse(parts.begin(), parts.end());
  }
  return Value::list(std::move(parts));
}

std::vector<Value> split_lines(const Value& string, bool keep_ends) {
  const View text = string.text();
  pay_characters(text.size());
  std::vector<Value> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t here = at;
    const char32_t c = next_code_point(text, at);
    const bool ends = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!ends) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(slice_of(string, begin, keep_ends ? at : here));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(slice_of(string, begin, text.size()));
  return lines;
}

Value replace(const Value& string, const Value& from, const Value& to, int64_t most) {
  const std::string &text = string.text(), &old = need_text(from, "replace");
  need_text(to, "replace");
  StrBuilder out;
  size_t at = 0;
  for (int64_t done = 0; most < 0 || done < most; ++done) {
    size_t found = at;
    pay_step();
    if (old.empty()) {  // in front of each character, and at the end
      out.append(to);
      if (at >= text.size()) return out.finish();
      next_code_point(text, found);
      out.append(string, at, found);
      at = found;
      continue;
    }
    found = find_text(text, old, at);
    if (found == text.npos) break;
    out.append(string, at, found);
    out.append(to);
    at = found + old.size();
  }
  out.append(string, at, text.size());
  return out.finish();
}

// Each character by `map`, which may write several.
template <typename Map>
Value map_characters(const Value& string, const Map& map) {
  pay_characters(2 * string.text().size());
  StrBuilder out;
  std::string piece;
  for_each_stretch(string, [&](View text, Origin origin) {
    piece.clear();
    for (size_t at = 0; at < text.size();) map(piece, next_code_point(text, at));
    out.append(piece, origin);
  });
  return out.finish();
}

bool is_cased(char32_t c) { return is_upper(c) || is_lower(c); }

Value lower(const Value& string) {
  const View text = string.text();
  if (text.find("\u03a3") == text.npos) return map_characters(string, append_lower);
  // A capital sigma at the end of a word is another letter.
  char32_t before = 0;
  size_t at = 0;
  return map_characters(string, [&](std::string& out, char32_t c) {
    next_code_point(text, at);
    size_t next = at;
    const char32_t after = at < text.size() ? next_code_point(text, next) : 0;
    if (c == 0x3A3 && is_letter(before) && !is_letter(after)) {
      out += "\u03c2";
    } else {
      append_lower(out, c);
    }
    before = c;
  });
}

Value capitalize(const Value& string) {
  StrBuilder out;
  const size_t first = byte_of(string.text(), 1);
  out.append(map_characters(slice_of(string, 0, first), append_title));
  out.append(lower(slice_of(string, first, string.text().size())));
  return out.finish();
}

Value title(const Value& string) {
  bool in_word = false;
  return map_characters(string, [&](std::string& out, char32_t c) {
    in_word ? append_lower(out, c) : append_title(out, c);
    in_word = is_cased(c);
  });
}

Value swap_case(const Value& string) {
  return map_characters(string, [](std::string& out, char32_t c) {
    if (is_upper(c)) {
      append_lower(out, c);
    } else {
      append_upper(out, c);
    }
  });
}

template <typename Test>
Value all_characters(const Value& string, const Test& test) {
  const View text = string.text();
  pay_characters(text.size());
  for (size_t at = 0; at < text.size();) {
    if (!test(next_code_point(text, at))) return Value::boolean(false);
  }
  return Value::boolean(!text.empty());
}

Value has_case(const Value& string, bool upper) {
  bool any = false;
  const View text = string.text();
  pay_characters(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (upper ? is_lower(c) : is_upper(c)) return Value::boolean(false);
    any |= is_cased(c);
  }
  return Value::boolean(any);
}

// [begin, end) in bytes of the characters that optional arguments from `first` on say.
std::pair<size_t, size_t> window(View text, const Arguments& args, size_t first) {
  if (args.find(first, "") == nullptr) return {0, text.size()};
  const auto length = static_cast<int64_t>(length_of(text));
  const auto position = [&](size_t index, int64_t otherwise) {
    const Value* value = args.find(index, "");
    if (value == nullptr || value->is(Kind::kNone)) return otherwise;
    int64_t at = need_integer(*value, "the method");
    if (at < 0) at = std::max<int64_t>(0, at + length);
    return at;
  };
  const int64_t begin = position(first, 0), end = std::min(position(first + 1, length), length);
  if (begin > length || begin > end) return {1, 0};
  return {byte_of(text, static_cast<size_t>(begin)), byte_of(text, static_cast<size_t>(end))};
}

Value starts_or_ends(const Value& string, const Arguments& args, bool at_start) {
  args.check(at_start ? "startswith" : "endswith", 3, {});
  const Value& what = need(args, 0, "", "startswith or endswith");
  const auto [begin, end] = window(string.text(), args, 1);
  if (begin > end) return Value::boolean(false);
  const View text = View(string.text()).substr(begin, end - begin);
  const auto matches = [&](const Value& one) {
    const std::string& word = need_text(one, "startswith or endswith");
    pay_scan(word.size());
    return at_start ? text.starts_with(word) : text.ends_with(word);
  };
  if (what.is(Kind::kTuple)) return Value::boolean(std::any_of(what.items().begin(), what.items().end(), matches));
  return Value::boolean(matches(what));
}

// -1 when there is none.
int64_t position_of(const Value& string, const Arguments& args, bool last) {
  const std::string& what = need_text(need(args, 0, "", "find"), "find");
  const auto [begin, end] = window(string.text(), args, 1);
  if (begin > end) return -1;
  const View text = View(string.text()).substr(0, end);
  const size_t found = last ? find_last_text(text.substr(begin), what) : find_text(text.substr(begin), what);
  if (found == text.npos) return -1;
  return static_cast<int64_t>(length_of(text.substr(0, begin + found)));
}

Value count_text(const Value& string, const Arguments& args) {
  const std::string& what = need_text(need(args, 0, "", "count"), "count");
  const auto [begin, end] = window(string.text(), args, 1);
  if (begin > end) return Value::integer(0);
  const View text = View(string.text()).substr(begin, end - begin);
  if (what.empty()) return Value::integer(static_cast<int64_t>(length_of(text)) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = find_text(text, what, at)) != text.npos; at += what.size()) ++count, pay_step();
  return Value::integer(count);
}

Value pad(const Value& string, const Arguments& args, char side, Origin origin) {
  const int64_t width = need_integer(need(args, 0, "width", "padding"), "padding");
  const Value fill = args.get(1, "fillchar", Value::string(" "));
  if (length_of(need_text(fill, "padding")) != 1) throw Failure("padding needs one character");
  const int64_t missing = width - static_cast<int64_t>(length_of(string.text()));
  if (missing <= 0) return string;
  const int64_t left = side == 'r' ? missing : side == 'l' ? 0 : missing / 2 + (missing & width & 1);
  StrBuilder out;
  out.append(repeated(fill, left), origin);
  out.append(string);
  out.append(repeated(fill, missing - left), origin);
  return out.finish();
}

Value zero_fill(const Value& string, const Arguments& args, Origin origin) {
  const int64_t width = need_integer(need(args, 0, "width", "zfill"), "zfill");
  const std::string& text = string.text();
  const int64_t missing = width - static_cast<int64_t>(length_of(text));
  if (missing <= 0) return string;
  pay_bytes(static_cast<size_t>(missing));
  const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
  StrBuilder out;
  out.append(string, 0, sign);
  out.append(std::string(static_cast<size_t>(missing), '0'), origin);
  out.append(string, sign, text.size());
  return out.finish();
}

Value partition(const Value& string, const Arguments& args, bool last) {
  const Value& mark = need(args, 0, "", "partition");
  const std::string& text = string.text();
  if (need_text(mark, "partition").empty()) throw Failure("partition by an empty text");
  const size_t found = last ? find_last_text(text, mark.text()) : find_text(text, mark.text());
  if (found == text.npos) {
    return last ? Value::list({Value::string(""), Value::string(""), string}, Kind::kTuple)
                : Value::list({string, Value::string(""), Value::string("")}, Kind::kTuple);
  }
  return Value::list({slice_of(string, 0, found), mark, slice_of(string, found + mark.text().size(), text.size())},
                     Kind::kTuple);
}

Value join(const Value& separator, const Value& items) {
  StrBuilder out;
  bool is_first = true;
  for (const Value& item : iterate(items)) {
    if (!is_first) out.append(separator);
    need_text(item, "join");
    out.append(item);
    is_first = false;
  }
  return out.finish();
}

Value call_string_method(const Value& self, const std::string& name, const Arguments& args, Origin origin) {
  const auto none = [&] { args.check(name, 0, {}); };
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    args.check(name, 1, {});
    return strip_chars(self, chars_of(args, name), name != "rstrip", name != "lstrip");
  }
  if (name == "split" || name == "rsplit") return split(self, args, name == "rsplit");
  if (name == "startswith" || name == "endswith") return starts_or_ends(self, args, name == "startswith");
  if (name == "replace") {
    args.check(name, 3, {"count"});
    return replace(self, need(args, 0, "", name), need(args, 1, "", name),
                   need_integer(args.get(2, "count", Value::integer(-1)), name));
  }
  if (name == "upper") return none(), map_characters(self, append_upper);
  if (name == "lower" || name == "casefold") return none(), lower(self);
  if (name == "capitalize") return none(), capitalize(self);
  if (name == "title") return none(), title(self);
  if (name == "swapcase") return none(), swap_case(self);
  if (name == "join") return args.check(name, 1, {}), join(self, need(args, 0, "", name));
  if (name == "splitlines") {
    args.check(name, 1, {"keepends"});
    return Value::list(split_lines(self, is_true(args.get(0, "keepends", Value::boolean(false)))));
  }
  if (name == "find" || name == "rfind" || name == "index" || name == "rindex") {
    args.check(name, 3, {});
    const int64_t found = position_of(self, args, name[0] == 'r');
    if (found < 0 && name.ends_with("index")) throw Failure("the text is not in it");
    return Value::integer(found);
  }
  if (name == "count") return args.check(name, 3, {}), count_text(self, args);
  if (name == "isspace") return none(), all_characters(self, is_python_space);
  if (name == "isalpha") return none(), all_characters(self, is_letter);
  if (name == "isdigit" || name == "isdecimal" || name == "isnumeric")
    return none(), all_characters(self, is_digit_of_any_script);
  if (name == "isalnum")
    return none(), all_characters(self, [](char32_t c) { return is_letter(c) || is_digit_of_any_script(c); });
  if (name == "isascii")
    return none(),
           Value::boolean(self.text().empty() || is_true(all_characters(self, [](char32_t c) { return c < 0x80; })));
  if (name == "isupper" || name == "islower") return none(), has_case(self, name == "isupper");
  if (name == "removeprefix" || name == "removesuffix") {
    args.check(name, 1, {});
    const std::string &text = self.text(), &part = need_text(need(args, 0, "", name), name);
    pay_scan(part.size());
    if (name == "removeprefix") return text.starts_with(part) ? slice_of(self, part.size(), text.size()) : self;
    return text.ends_with(part) ? slice_of(self, 0, text.size() - part.size()) : self;
  }
  if (name == "partition" || name == "rpartition")
    return args.check(name, 1, {}), partition(self, args, name[0] == 'r');
  if (name == "ljust" || name == "rjust" || name == "center")
    return args.check(name, 2, {}), pad(self, args, name[0], origin);
  if (name == "zfill") return args.check(name, 1, {}), zero_fill(self, args, origin);
  if (name == "format") return format_braces(self, args);
  throw Failure(fmt::format("str.{} is not supported", name));
}

Value call_dict_method(const Value& self, const std::string& name, const Arguments& args) {
  const Dict& dict = self.dict();
  if (name == "get") {
    args.check(name, 2, {});
    const Value& key = need(args, 0, "", name);
    if (key.is(Kind::kList) || key.is(Kind::kDict)) throw Failure(fmt::format("a {} cannot be a key", type_name(key)));
    const Value* found = dict.find(key);
    return found != nullptr ? *found : args.get(1, "", Value::none());
  }
  args.check(name, 0, {});
  if (name == "copy") return self;
  std::vector<Value> items;
  for (const auto& [key, value] : dict.items) {
    items.push_back(name == "keys" ? key : name == "values" ? value : Value::list({key, value}, Kind::kTuple));
  }
  return Value::generator(std::move(items), "dict_" + name);
}

Value call_list_method(const Value& self, const std::string& name, const Arguments& args) {
  if (name == "copy") return args.check(name, 0, {}), self;
  const std::vector<Value>& items = self.items();
  args.check(name, 1, {});
  const Value& what = need(args, 0, "", name);
  pay_steps(items.size() / 8);
  const auto same = [&](const Value& one) { return are_equal(one, what); };
  if (name == "count") return Value::integer(std::count_if(items.begin(), items.end(), same));
  const auto found = std::find_if(items.begin(), items.end(), same);
  if (found == items.end()) throw Failure("the value is not in the list");
  return Value::integer(found - items.begin());
}

const std::set<View> kStringMethods{
    "strip",     "lstrip",     "rstrip",       "split",        "rsplit",      "startswith", "endswith", "replace",
    "upper",     "lower",      "casefold",     "capitalize",   "title",       "swapcase",   "join",     "splitlines",
    "find",      "rfind",      "index",        "rindex",       "count",       "isspace",    "isalpha",  "isdigit",
    "isdecimal", "isnumeric",  "isalnum",      "isascii",      "isupper",     "islower",    "istitle",  "isidentifier",
    "partition", "rpartition", "removeprefix", "removesuffix", "ljust",       "rjust",      "center",   "zfill",
    "format",    "encode",     "translate",    "expandtabs",   "isprintable", "format_map", "maketrans"};
const std::set<View> kDictMethods{"get", "items", "keys", "values", "copy"};
const std::set<View> kDictChanges{"pop", "popitem", "update", "setdefault", "clear", "fromkeys"};
const std::set<View> kListMethods{"index", "count", "copy"};
const std::set<View> kListChanges{"append", "extend", "insert", "pop", "remove", "reverse", "sort", "clear"};

bool changes(const Value& value, View name) {
  return value.is(Kind::kDict) ? kDictChanges.count(name) > 0 : value.is(Kind::kList) && kListChanges.count(name) > 0;
}

}  // namespace

const Value* Arguments::find(size_t index, std::string_view name) const {
  if (index < values.size()) return &values[index];
  if (name.empty()) return nullptr;
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

Value Arguments::get(size_t index, std::string_view name, Value otherwise) const {
  const Value* found = find(index, name);
  return found != nullptr ? *found : std::move(otherwise);
}

void Arguments::check(std::string_view function, size_t most, std::initializer_list<std::string_view> names) const {
  if (values.size() > most) throw Failure(fmt::format("{} takes at most {} arguments", function, most));
  for (const auto& [key, value] : named) {
    if (std::find(names.begin(), names.end(), key) == names.end())
      throw Failure(fmt::format("{} takes no argument '{}'", function, key));
  }
}

bool has_method(const Value& value, std::string_view name) {
  switch (value.kind) {
    case Kind::kString:
      return kStringMethods.count(name) > 0;
    case Kind::kDict:
      return kDictMethods.count(name) > 0 || kDictChanges.count(name) > 0;
    case Kind::kList:
      return kListMethods.count(name) > 0 || kListChanges.count(name) > 0;
    case Kind::kTuple:
      return name == "index" || name == "count";
    default:
      return false;
  }
}

Value bound_method(const Value& value, std::string_view name) {
  auto method = std::make_shared<Method>();
  method->self = value;
  method->name = name;
  method->is_forbidden = changes(value, name);
  return Value::of(Kind::kMethod, std::move(method));
}

Value call_method(const Method& method, const Arguments& arguments, const Caller& caller) {
  if (method.is_forbidden)
    throw Failure(fmt::format("{} would change a {}, which templates must not", method.name, type_name(method.self)));
  switch (method.self.kind) {
    case Kind::kString:
      return call_string_method(method.self, method.name, arguments, caller.template_origin());
    case Kind::kDict:
      return call_dict_method(method.self, method.name, arguments);
    default:
      return call_list_method(method.self, method.name, arguments);
  }
}

}  // namespace moraine::jinja
