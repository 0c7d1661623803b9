// Texts as Python's own types write and read them.
#pragma once

#include <string>
#include <string_view>

namespace moraine::jinja {

// str.isspace of one character.
bool is_python_space(char32_t code_point);
std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);
// Where `what` is found first from `at` on, or last before `end`; npos: nowhere. Pay for what they look at.
size_t find_text(std::string_view text, std::string_view what, size_t at = 0);
size_t find_last_text(std::string_view text, std::string_view what);
// Code points of valid UTF-8.
size_t length_of(std::string_view text);
// The byte at which character `index` begins.
size_t byte_of(std::string_view text, size_t index);

// Python's repr of a float: the shortest digits that read back the same, "1e-05", "1e+16", "2.0", "nan", "-inf".
std::string float_repr(double value);

// What Python writes for one character of a string's repr in quotes `quote`, and of JSON text.
void append_repr(std::string& out, char32_t code_point, char quote);
void append_json(std::string& out, char32_t code_point, bool ascii_only);
// ' or ", as repr chooses.
char repr_quote(std::string_view text);

// str.upper and str.lower of one character; `out` may gain several.
void append_upper(std::string& out, char32_t code_point);
void append_title(std::string& out, char32_t code_point);
void append_lower(std::string& out, char32_t code_point);
bool is_letter(char32_t code_point);  // str.isalpha
bool is_digit_of_any_script(char32_t code_point);
bool is_upper(char32_t code_point);
bool is_lower(char32_t code_point);

}  // namespace moraine::jinja
