// Jinja's grammar, as its own parser reads it: the statements.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "text/jinja/expression_parser.h"
#include "text/jinja/functions.h"
#include "text/jinja/tree.h"

namespace moraine::jinja {
namespace {

class Parser : ExpressionParser {
 public:
  explicit Parser(std::string_view source) : ExpressionParser(source) {
    for (const char* name : {"loop", "caller", "varargs", "kwargs"}) symbol(name);
  }

  Tree run() {
    tree_.body = body({});
    for (const std::string& name : tree_.symbols) tree_.globals.push_back(find_global(name));
    return std::move(tree_);
  }

 private:
  // Statements.

  // Up to a block tag that begins with one of `ends`, whose name is the next token then.
  Body body(std::initializer_list<std::string_view> ends) {
    Nested nested(*this);
    Body statements;
    while (now().kind != TokenKind::kEnd) {
      const Place place = now().place;
      switch (now().kind) {
        case TokenKind::kText: {
          auto statement = std::make_unique<Stmt>(Stmt{StmtKind::kText, place});
          statement->text = Value::string(take().text);
          statements.push_back(std::move(statement));
          break;
        }
        case TokenKind::kVariableBegin: {
          ++at_;
          auto statement = std::make_unique<Stmt>(Stmt{StmtKind::kOutput, place});
          statement->expr = tuple();
          if (now().kind != TokenKind::kVariableEnd) fail("'}}' is expected, not " + shown());
          ++at_;
          statements.push_back(std::move(statement));
          break;
        }
        case TokenKind::kBlockBegin:
          ++at_;
          if (at_any_name(ends)) return statements;
          statements.push_back(statement(place));
          if (now().kind != TokenKind::kBlockEnd) fail("'%}' is expected, not " + shown());
          ++at_;
          break;
        default:
          fail("unexpected " + shown());
      }
    }
    if (ends.size() > 0) fail(fmt::format("'{}' is missing", *std::prev(ends.end())));
    return statements;
  }

  void end_tag() {
    if (now().kind != TokenKind::kBlockEnd) fail("'%}' is expected, not " + shown());
    ++at_;
  }

  // The body behind a tag's '%}', up to the tag `end`, which is read.
  Body body_to(std::string_view end) {
    end_tag();
    Body statements = body({end});
    ++at_;
    return statements;
  }

  std::unique_ptr<Stmt> statement(Place place) {
    const std::string tag = take_name();
    auto made = std::make_unique<Stmt>(Stmt{StmtKind::kBreak, place});
    if (tag == "for") {
      read_for(*made);
    } else if (tag == "if") {
      read_if(*made);
    } else if (tag == "set") {
      read_set(*made);
    } else if (tag == "macro") {
      made->kind = StmtKind::kMacro;
      made->name = take_name();
      made->symbol = symbol(made->name);
      read_signature(made->parameters);
      read_macro_body(*made, "endmacro");
    } else if (tag == "call") {
      made->kind = StmtKind::kCallBlock;
      if (is_op("(")) read_signature(made->parameters);
      made->expr = expression();
      if (made->expr->kind != ExprKind::kCall) fail("a call block needs a call");
      read_macro_body(*made, "endcall");
    } else if (tag == "filter") {
      made->kind = StmtKind::kFilterBlock;
      made->expr = filters(nullptr, true);
      made->body = body_to("endfilter");
    } else if (tag == "with") {
      made->kind = StmtKind::kWith;
      while (now().kind != TokenKind::kBlockEnd) {
        if (!made->with.empty()) expect_op(",");
        ExprPtr target = assign_target(false);
        expect_op("=");
        made->with.emplace_back(std::move(target), expression());
      }
      made->body = body_to("endwith");
    } else if (tag == "generation") {
      made->kind = StmtKind::kGeneration;
      tree_.has_generation = true;
      made->body = body_to("endgeneration");
    } else if (tag == "block") {
      read_block(*made, place);
    } else if (tag == "break" || tag == "continue") {
      if (loops_ == 0) throw Failure(fmt::format("'{}' outside of a loop", tag), place);
      made->kind = tag == "break" ? StmtKind::kBreak : StmtKind::kContinue;
    } else {
      throw Failure(fmt::format("the tag '{}' is not one of chat templates", tag), place);
    }
    return made;
  }

  // Without templates that extend this one, a block is what stands in it.
  void read_block(Stmt& made, Place place) {
    made.kind = StmtKind::kBlock;
    made.name = take_name();
    if (is_op("-")) fail("the name of a block has no hyphens");
    if (!blocks_.insert(made.name).second)
      throw Failure(fmt::format("the block '{}' is there twice", made.name), place);
    made.is_scoped = skip_name("scoped");
    if (skip_name("required")) throw Failure("a required block, which only another template could give", place);
    const int loops = std::exchange(loops_, 0);
    made.body = body_to("endblock");
    loops_ = loops;
    skip_name(made.name);
  }

  void read_for(Stmt& made) {
    made.kind = StmtKind::kFor;
    made.target = target_tuple(false, "in");
    check_target(*made.target);
    expect_name("in");
    made.expr = tuple(false, "recursive");
    if (skip_name("if")) made.test = expression();
    made.is_recursive = skip_name("recursive");
    end_tag();
    ++loops_;
    made.body = body({"endfor", "else"});
    --loops_;
    if (take().text == "else") made.other = body_to("endfor");
  }

  void read_if(Stmt& made) {
    made.kind = StmtKind::kIf;
    Stmt* branch = &made;
    for (int links = 0;;) {
      check_links(++links);
      branch->expr = tuple(false);
      end_tag();
      branch->body = body({"elif", "else", "endif"});
      const Token token = take();
      if (token.text == "elif") {
        branch->other.push_back(std::make_unique<Stmt>(Stmt{StmtKind::kIf, token.place}));
        branch = branch->other.back().get();
        continue;
      }
      if (token.text == "else") branch->other = body_to("endif");
      return;
    }
  }

  void read_set(Stmt& made) {
    made.kind = StmtKind::kSet;
    made.target = target_tuple(true, "");
    check_target(*made.target);
    if (skip_op("=")) {
      made.expr = tuple();
      return;
    }
    made.kind = StmtKind::kSetBlock;
    if (made.target->kind == ExprKind::kTuple) fail("a block cannot be taken apart");
    made.expr = filters(nullptr, false);
    made.body = body_to("endset");
  }

  void read_signature(Parameters& parameters) {
    expect_op("(");
    while (!is_op(")")) {
      if (!parameters.symbols.empty()) expect_op(",");
      const std::string name = take_name();
      if (std::find(parameters.names.begin(), parameters.names.end(), name) != parameters.names.end())
        fail(fmt::format("the parameter '{}' is there twice", name));
      parameters.symbols.push_back(symbol(name));
      parameters.names.push_back(name);
      if (skip_op("=")) {
        parameters.defaults.push_back(expression());
      } else if (!parameters.defaults.empty()) {
        fail("a parameter without a default follows one with a default");
      }
    }
    expect_op(")");
  }

  // What a macro reads tells whether it takes further arguments.
  void read_macro_body(Stmt& made, std::string_view end) {
    const bool outer[] = {reads_[kCaller], reads_[kVarargs], reads_[kKwargs]};
    std::fill(std::begin(reads_), std::end(reads_), false);
    const int loops = std::exchange(loops_, 0);
    made.body = body_to(end);
    loops_ = loops;
    made.parameters.takes_caller = reads_[kCaller];
    made.parameters.takes_more = reads_[kVarargs];
    made.parameters.takes_named = reads_[kKwargs];
    reads_[kCaller] = outer[0], reads_[kVarargs] = outer[1], reads_[kKwargs] = outer[2];
  }

  // Targets.

  void check_target(const Expr& target) const {
    if (target.kind == ExprKind::kTuple) {
      for (const ExprPtr& part : target.parts) check_target(*part);
    } else if (target.kind != ExprKind::kName && target.kind != ExprKind::kNamespaceItem) {
      throw Failure("cannot be assigned to", target.place);
    } else if (target.kind == ExprKind::kName && tree_.symbols[static_cast<size_t>(target.symbol)] == "loop" &&
               loops_ > 0) {
      throw Failure("'loop' cannot be assigned to", target.place);
    }
  }

  ExprPtr assign_target(bool with_namespace) { return target_tuple(with_namespace, ""); }

  ExprPtr target_tuple(bool with_namespace, std::string_view end) {
    Nested nested(*this);
    const Place place = now().place;
    std::vector<ExprPtr> parts;
    bool is_tuple = false;
    while (true) {
      if (is_tuple_end(end)) break;
      parts.push_back(target_primary(with_namespace));
      if (!skip_op(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) {
      if (parts.empty()) fail("a name is expected, not " + shown());
      return std::move(parts[0]);
    }
    ExprPtr made = make(ExprKind::kTuple, place);
    made->parts = std::move(parts);
    return made;
  }

  ExprPtr target_primary(bool with_namespace) {
    const Place place = now().place;
    if (skip_op("(")) {
      ExprPtr made = target_tuple(with_namespace, "");
      expect_op(")");
      return made;
    }
    const std::string name = take_name();
    for (const char* word : {"true", "false", "none", "True", "False", "None"}) {
      if (name == word) throw Failure(fmt::format("'{}' cannot be assigned to", name), place);
    }
    ExprPtr made = make(ExprKind::kName, place);
    if (with_namespace && skip_op(".")) {
      made->kind = ExprKind::kNamespaceItem;
      made->text = take_name();
    }
    made->symbol = symbol(name);
    return made;
  }

  int loops_ = 0;
  std::set<std::string> blocks_;
};

}  // namespace

Tree parse(std::string_view source) { return Parser(source).run(); }

}  // namespace moraine::jinja
