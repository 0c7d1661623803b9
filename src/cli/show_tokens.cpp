#include "cli/show_tokens.h"

#include <unistd.h>

#include <cstdlib>

#include "base/output.h"

namespace moraine {
namespace {

constexpr const char* kReset = "\x1b[0m";
// Black on two greens and, for every second turn, on two blues; plain and grey.
constexpr const char* kTrainedShades[][2] = {{"\x1b[30;48;5;114m", "\x1b[30;48;5;150m"},
                                             {"\x1b[30;48;5;110m", "\x1b[30;48;5;153m"}};
constexpr const char* kOtherShades[] = {"", "\x1b[90m"};

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// The end of the character that byte `at` lies in: a token may end within one, but colours cannot change there.
size_t character_end(std::string_view text, size_t at) {
  while (at < text.size() && continues_character(text[at])) ++at;
  return at;
}

// `text` in a colour that does not run on over the ends of lines.
std::string coloured(std::string_view text, std::string_view colour) {
  std::string shown;
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    const std::string line = for_terminal(text.substr(0, newline));
    shown += colour;
    shown += line;
    if (newline != text.npos && !colour.empty()) shown += "↵";
    if (!colour.empty()) shown += kReset;
    if (newline == text.npos) break;
    shown += '\n';
    text.remove_prefix(newline + 1);
  }
  return shown;
}

}  // namespace

TokenMarks marks_for_stdout() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  const bool colours =
      isatty(STDOUT_FILENO) && !(no_color && *no_color) && terminal && std::string_view(terminal) != "dumb";
  return colours ? TokenMarks::kColours : TokenMarks::kBrackets;
}

std::string show_tokens(std::string_view text, const Encoding& encoding, const std::vector<uint8_t>& loss_mask,
                        TokenMarks marks) {
  std::string shown;
  size_t begin = 0;
  bool in_trained = false;
  size_t turns = 0;
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    // Text between tokens (dropped by normalisation) goes to the token after it.
    const size_t end = std::max(begin, character_end(text, encoding.offsets[i].second));
    const std::string_view piece = text.substr(begin, end - begin);
    const bool trained = !loss_mask.empty() && loss_mask[i];
    turns += trained && !in_trained;
    if (marks == TokenMarks::kColours) {
      shown += coloured(piece, (trained ? kTrainedShades[(turns + 1) % 2] : kOtherShades)[i % 2]);
    } else {
      if (trained != in_trained) shown += trained ? "⟦" : "⟧";
      shown += for_terminal(piece);
    }
    in_trained = trained;
    begin = end;
  }
  if (marks == TokenMarks::kBrackets && in_trained) shown += "⟧";
  return shown + for_terminal(text.substr(begin));
}

}  // namespace moraine
