// Answers of a model in a chat format, read back into messages.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "text/chat/answer_syntax.h"
#include "text/chat/chat_template.h"

namespace moraine {

class AnswerReader {
 public:
  // `syntax`: a name of answer_syntaxes(), or auto: that of the built-in format, and of a template the one that reads
  // back a call of a tool which the template renders. Throws an input error at `where` that lists the names on an
  // unknown one, and where auto finds none.
  AnswerReader(const ChatTemplate& chat, const std::string& syntax, const std::string& where);

  const std::string& syntax() const { return syntax_->name; }

  // The message (AnswerSyntax::parse) that a model wrote after `prompt`, its end of turn included, which it may lack
  // with `may_lack_end`. `tools`: an array or null. Throws an input error without the row's place.
  OrderedJson read(std::string_view answer, std::string_view prompt, const OrderedJson& tools, bool may_lack_end) const;

 private:
  const AnswerSyntax* syntax_ = nullptr;
  std::string end_of_turn_;
};

}  // namespace moraine
