// The command line: one function per command, each in its own file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moraine {

// Parses argv, runs the command and returns the exit code. Throws input errors for wrong usage.
int run_command_line(int argc, char** argv);

// A number that no flag can mean.
inline constexpr int64_t kNotGiven = INT64_MIN;

// The flags of all commands; a command sees those that the table in commands.cpp lists for it. Empty = not given.
struct CommandArgs {
  std::string recipe;                  // positional of train and plan
  std::string folder;                  // positional of inspect and report
  std::string key;                     // positional of recipe
  std::vector<std::string> overrides;  // section.key=value
  std::vector<std::string> adapters;   // DIR or DIR=WEIGHT: cli/adapter_flags
  std::string model, adapter, tokens, out, grads, config, dtype, layout, server, score_tokens;
  std::string method = "cat";  // of merge-adapters
  std::string prompt, chat, tools, text, texts, messages, parse, syntax, template_name, template_options, chat_template,
      memory_per_rank, device;
  std::vector<std::string> template_option;  // NAME=VALUE
  int64_t max_new_tokens = 128;
  double temperature = 0;  // 0 = greedy
  uint64_t seed = 0;
  int64_t ranks = 1;
  int64_t world = kNotGiven, ranks_per_node = kNotGiven;
  std::string manifest;
  std::string max_shard_size = "5GB";
  bool logits = false, json = false, hash = false, check = false, schema = false, markdown = false, keep_format = false;
  bool parse_answer = false, parse_without_eos = false;
};

// The loss of args.tokens with args.model and args.adapters, in this process alone; throws as `moraine score` does.
double score_loss(const CommandArgs& args);

int run_train(const CommandArgs& args);
int run_verify(const CommandArgs& args);
int run_plan(const CommandArgs& args);
int run_score(const CommandArgs& args);
int run_generate(const CommandArgs& args);
int run_inspect(const CommandArgs& args);
int run_report(const CommandArgs& args);
int run_recipe(const CommandArgs& args);
int run_tokenize(const CommandArgs& args);
int run_init(const CommandArgs& args);
int run_merge(const CommandArgs& args);
int run_merge_adapters(const CommandArgs& args);
int run_export(const CommandArgs& args);
int run_convert(const CommandArgs& args);

}  // namespace moraine
