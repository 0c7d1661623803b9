#include "cli/tokenize_template.h"

#include <fmt/format.h>

#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/output.h"
#include "base/text.h"
#include "cli/show_tokens.h"
#include "text/chat/chat_template.h"
#include "text/jinja/conversation.h"
#include "text/rows/data_files.h"
#include "text/rows/row_reader.h"
#include "text/tokenizer/at_place.h"
#include "text/tokenizer/tokenizer.h"

namespace moraine {
namespace {

// `text` with stretches that touch as one, as [[begin, end], …].
OrderedJson spans_of(const jinja::ConversationText& made) {
  OrderedJson spans = OrderedJson::array();
  for (const jinja::TurnSpan& turn : made.turns) {
    if (turn.end <= turn.begin) continue;
    if (!spans.empty() && spans.back()[1] == turn.begin) {
      spans.back()[1] = turn.end;
    } else {
      spans.push_back({turn.begin, turn.end});
    }
  }
  return spans;
}

OrderedJson row_by_template(const jinja::ConversationTemplate& chat, const OrderedJson& row,
                            const Tokenizer* tokenizer) {
  const OrderedJson messages = row.is_object() ? row.value("messages", OrderedJson()) : row;
  if (!messages.is_array()) throw row_error("has no list 'messages'");
  const OrderedJson tools = row.is_object() ? row.value("tools", OrderedJson()) : OrderedJson();
  std::string why;
  const jinja::ConversationText made = chat.render(messages, tools, &why);
  if (!why.empty()) return {{"text", made.text}, {"error", why}};
  OrderedJson json{{"text", made.text}, {"loss_spans_utf8", spans_of(made)}};
  if (tokenizer == nullptr) return json;
  ChatText text{made.text, {}, {}};
  text.foreign = jinja::foreign_ranges(messages, made);
  for (const OrderedJson& span : json["loss_spans_utf8"])
    text.trained.emplace_back(span[0].get<size_t>(), span[1].get<size_t>());
  TokenizedChat tokens =
      tokenize_chat(text, *tokenizer, LossOn::kAssistant, tokenizer->added_tokens_in(chat.scaffold()));
  json["ids"] = std::move(tokens.ids);
  json["loss_mask"] = std::move(tokens.loss_mask);
  return json;
}

// The text for a reader, with what is trained in its colours; spans count as tokens here.
std::string shown_row(const OrderedJson& row, const TokenMarks& marks) {
  if (!row.contains("loss_spans_utf8"))
    return fmt::format("refused: {}\n", for_terminal(row["error"].get<std::string>()));
  const std::string text = row["text"].get<std::string>();
  Encoding stretches;
  std::vector<uint8_t> mask;
  uint32_t at = 0;
  const auto add = [&](uint32_t end, uint8_t is_trained) {
    if (end == at) return;
    stretches.ids.push_back(0);
    stretches.offsets.emplace_back(at, end);
    mask.push_back(is_trained);
    at = end;
  };
  for (const OrderedJson& span : row["loss_spans_utf8"]) {
    add(span[0].get<uint32_t>(), 0);
    add(span[1].get<uint32_t>(), 1);
  }
  add(static_cast<uint32_t>(text.size()), 0);
  return show_tokens(text, stretches, mask, marks) + "\n";
}

}  // namespace

void tokenize_by_template(const CommandArgs& args) {
  if (args.messages.empty()) throw input_error("--chat-template", "needs --messages");
  if (!args.template_name.empty()) throw input_error("--chat-template", "is instead of --template");
  if (!args.overrides.empty()) throw input_error(args.overrides.front(), "--chat-template takes no recipe keys");
  const OrderedJson options = args.template_options.empty()
                                  ? OrderedJson::object()
                                  : parse_exact_json(args.template_options, "--template-options");
  const jinja::ConversationTemplate chat(jinja::Template(read_text_file(args.chat_template), args.chat_template),
                                         jinja::read_render_options(options, "--template-options"));
  std::optional<Tokenizer> tokenizer;
  if (!args.model.empty()) tokenizer = Tokenizer::from_folder(args.model);
  const TokenMarks marks = marks_for_stdout();
  int64_t rows = 0, refused = 0, trained = 0, bytes = 0;
  for (const std::string& file : find_data_files({args.messages})) {
    RowReader reader(file);
    for (JsonRow row; reader.next(row); ++rows) {
      OrderedJson made;
      try {
        made = at_place(fmt::format("{}:{}", file, row.line), [&] {
          return row_by_template(chat, parse_exact_json(row.text, ""), tokenizer ? &*tokenizer : nullptr);
        });
      } catch (const Error& error) {
        made = {{"error", error.what()}};
      }
      if (args.json) {
        print_json(made);
        continue;
      }
      print_result(fmt::format("── row {} ──\n{}", rows + 1, shown_row(made, marks)));
      refused += made.contains("error");
      if (made.contains("error")) continue;
      bytes += static_cast<int64_t>(made["text"].get_ref<const std::string&>().size());
      for (const OrderedJson& span : made["loss_spans_utf8"])
        trained += span[1].get<int64_t>() - span[0].get<int64_t>();
    }
  }
  if (rows == 0) throw input_error(args.messages, "holds no rows");
  if (!args.json) {
    print_result(fmt::format("{} rows, {} refused, {}% of the text trained\n", rows, refused,
                             bytes > 0 ? trained * 100 / bytes : 0));
  }
}

}  // namespace moraine
