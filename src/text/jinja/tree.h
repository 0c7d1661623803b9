// A parsed template: expressions and statements.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/failure.h"
#include "text/jinja/value.h"

namespace moraine::jinja {

enum class ExprKind {
  kConstant,
  kName,
  kTuple,
  kList,
  kDict,       // parts: key, value, key, value, …
  kAttribute,  // parts[0].text
  kItem,       // parts[0][parts[1]]
  kSlice,      // parts: start, stop, step; each may be null
  kCall,       // parts[0](parts[1…], named)
  kFilter,     // parts[0] | text(parts[1…], named); parts[0] null: a block's text
  kTest,       // parts[0] is text(parts[1…], named)
  kNot,
  kNegative,
  kPositive,
  kAnd,
  kOr,
  kIf,       // parts: test, then, else (may be null)
  kCompare,  // parts[0] operators[0] parts[1] operators[1] parts[2] …
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kConcat,
  kNamespaceItem,  // target only: text is the attribute, symbol the namespace
};

enum class CompareKind { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn };

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  ExprKind kind;
  Place place;
  std::vector<ExprPtr> parts = {};
  std::vector<std::pair<std::string, ExprPtr>> named = {};  // keyword arguments
  ExprPtr all_arguments = nullptr, all_named = nullptr;     // *arguments, **named
  std::string text = "";
  int symbol = -1;
  Value constant = {};
  std::vector<CompareKind> operators = {};
  int function = -1;  // which filter or test: looked up when the template is parsed, -1 for one that there is not
};

enum class StmtKind {
  kText,
  kOutput,
  kFor,
  kIf,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kGeneration,
  kBlock,
  kBreak,
  kContinue,
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

// What a macro or a call block takes.
struct Parameters {
  std::vector<int> symbols;
  std::vector<std::string> names;
  std::vector<ExprPtr> defaults;  // of the last parameters
  bool takes_more = false, takes_named = false, takes_caller = false;
};

struct Stmt {
  StmtKind kind;
  Place place;
  Value text = {};             // kText
  ExprPtr expr = nullptr;      // kOutput, kFor's iterable, kIf's test, kSet's value, a call block's call, filters
  ExprPtr target = nullptr;    // kFor, kSet, kSetBlock
  ExprPtr test = nullptr;      // kFor's "if"
  Body body = {}, other = {};  // `other`: else
  bool is_recursive = false;   // kFor
  bool is_scoped = false;      // kBlock
  std::string name = "";       // kMacro, kBlock
  int symbol = -1;             // kMacro
  Parameters parameters = {};  // kMacro, kCallBlock
  std::vector<std::pair<ExprPtr, ExprPtr>> with = {};  // kWith
};

struct Tree {
  Body body;
  std::vector<std::string> symbols;  // names of variables; the first are those that the evaluator knows
  std::vector<int> globals;          // of each, the function (find_global) that it names; -1: none
  bool has_generation = false;
};

// Symbols that every tree has, by their places.
enum KnownSymbol { kLoop, kCaller, kVarargs, kKwargs, kKnownSymbols };

// Throws Failure on what Jinja refuses, or what only files beside a template could give (include, extends, …).
Tree parse(std::string_view source);

}  // namespace moraine::jinja
