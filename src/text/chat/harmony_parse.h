// Harmony, the format of gpt-oss' answers.
#pragma once

#include <string_view>

#include "base/json.h"
#include "text/chat/answer_syntax.h"

namespace moraine {

// As AnswerSyntax::parse, of what follows <|start|>assistant: messages with a channel and, for a call, a recipient
// functions.NAME in their heads. Messages of the analysis channel are the reasoning, others without a recipient the
// content; several are joined by an empty line. Its own tokens end messages, whatever the frame says: <|return|> or
// <|call|> the answer, and <|end|> one that another message or nothing follows.
OrderedJson parse_harmony(std::string_view answer, const AnswerFrame& frame);

}  // namespace moraine
